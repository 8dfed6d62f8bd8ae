"""Check the check: inject faults into a model, one at a time, and see whether the parity gate notices.

The share noticed is the mutation score. A fault that is still there in a float64 evaluation but stays under the bound
has survived; one that changes nothing even in float64 is equivalent, and counts for neither side.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from attn_export.bundle import Case
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import DEFAULT, opened
from attn_export.deploy_tests.parity import slices
from attn_export.deploy_tests.parity.compare import TOLERANCE, OutputComparison, prove
from attn_export.errors import BackendError, ExportError, InconclusiveError
from attn_export.export.mutants.catalogue import TRIVIAL, Mutation, mutations
from attn_export.export.onnx.save import save
from attn_export.process import activity
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Summarised, TensorSpec
from attn_export.untrusted.text import first_line

#: Two models are the same where their float64 evaluations differ by no more, relative to the output's norm.
EQUIVALENT = 1e-12
#: What ``fast`` may take, as a share of the time before it: a fifth of the run up to there.
FAST_SHARE = 0.25
#: Cases on which ``fast`` tells survivors from equivalents.
FAST_CASES = 2

Verdict = Literal["killed", "survived", "equivalent", "invalid"]


@dataclass(frozen=True)
class MutantResult:
    """What became of one mutant.

    Attributes:
        name: kind and place of the fault.
        kind: kind alone.
        verdict: ``killed`` by the gate; ``survived`` it; ``equivalent`` to the model in float64; ``invalid``: the
            runtime refused it before anything could be compared.
        normalized_error: largest error in units of what float32 is allowed; infinite where nothing could be compared.
        margin: how many times below its bound a survivor's error stays.
        float64_distance: a survivor's true distance from the model, evaluated in float64, relative to the output.
        caught_by_audit: the graph audit that notices a survivor; empty where none does.
        reason: how it was decided, in words.
    """

    name: str
    kind: str
    verdict: Verdict
    normalized_error: float
    margin: float = 0.0
    float64_distance: float = 0.0
    caught_by_audit: str = ""
    reason: str = ""


@dataclass(frozen=True)
class MutationScore(Summarised):
    """What became of the mutants that were tried, out of all that could be made."""

    mode: str
    possible: int
    mutants: tuple[MutantResult, ...]
    duration_s: float

    def count(self, verdict: Verdict) -> int:
        """How many mutants have this verdict."""
        return sum(result.verdict == verdict for result in self.mutants)

    @property
    def score(self) -> float:
        """Killed among those killed or survived; NaN where there is none."""
        judged = self.count("killed") + self.count("survived")
        return self.count("killed") / judged if judged else float("nan")

    @property
    def vacuous(self) -> tuple[str, ...]:
        """The trivial mutants that were not killed."""
        return tuple(result.name for result in self.mutants if result.kind in TRIVIAL and result.verdict != "killed")

    def summary(self) -> str:
        """Say the score in one line."""
        judged = self.count("killed") + self.count("survived")
        text = f"mutation score {self.score:.0%}: {self.count('killed')} of {judged} injected faults caught"
        if seen := sum(bool(result.caught_by_audit) for result in self.mutants):
            others = self.count("survived")
            text += f", {'' if seen == others else f'{seen} of '}the other {others} by the graph audit"
        if equal := self.count("equivalent"):
            text += f", {equal} equivalent"
        return f"{text} ({len(self.mutants)} of {self.possible} tried, {self.duration_s:.1f} s)"

    def to_dict(self) -> dict[str, Any]:
        """Give the score as plain data, for the manifest."""
        rows = [{k: None if v == float("inf") else v for k, v in asdict(result).items()} for result in self.mutants]
        return {
            "mode": self.mode,
            "possible": self.possible,
            "tried": len(self.mutants),
            **{verdict: self.count(verdict) for verdict in ("killed", "survived", "equivalent", "invalid")},
            "score": self.score if self.score == self.score else None,
            "vacuous": list(self.vacuous),
            "duration_s": self.duration_s,
            "mutants": rows,
        }


def refuse_vacuous(score: MutationScore) -> None:
    """Refuse a gate that the input itself or zeros pass.

    Raises:
        InconclusiveError: it is vacuous.
    """
    if score.vacuous:
        raise InconclusiveError(
            f"the parity check is vacuous: it lets '{score.vacuous[0]}' pass, so its verdict says nothing;"
            " use weights and inputs on which the model does something (--weights, --data)"
        )


def run_mutants(
    model: onnx.ModelProto,
    cases: Sequence[Case],
    outputs: Sequence[TensorSpec],
    *,
    budget: float | None = None,
    tolerance: float = TOLERANCE,
    second: Callable[[onnx.ModelProto], str] | None = None,
    faults: Sequence[Mutation] | None = None,
    backend: str = DEFAULT,
    snr: float | None = None,
) -> MutationScore:
    """Run every mutant of ``model`` through the gate on a backend.

    Args:
        model: what is deployed; correct.
        cases: those of the bundle.
        outputs: those of the bundle.
        budget: seconds after which no further mutant is begun, but for one of each kind. None: all run.
        tolerance: the gate's.
        second: given a mutant, names the graph audit that notices it, or gives an empty string.
        faults: what to try; by default all that can be made.
        backend: what runs them.
        snr: the gate of a precision below float32, in dB, in place of ``tolerance``.
    """
    began = time.perf_counter()
    rows = mutations(model) if faults is None else list(faults)
    judge = _Gate(model, cases, outputs, tolerance, len(cases) if budget is None else FAST_CASES, backend, snr)
    mutants: list[MutantResult] = []
    tried: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for mutation in rows:
            spent = time.perf_counter() - began
            if budget is not None and spent > budget and mutation.kind in tried:
                break  # mutants come one of each kind in turn, so every kind that applies was tried by now
            tried.add(mutation.kind)
            mutant = mutation.of(model)
            with activity.doing(f"trying the injected fault {mutation.name!r}", who="", model=""):
                result = judge(mutation, mutant, Path(folder, "mutant.onnx"))
            if result.verdict == "survived" and second is not None:
                result = replace(result, caught_by_audit=second(mutant))
            mutants.append(result)
    mode = "full" if budget is None else "fast"
    return MutationScore(mode, len(rows), tuple(mutants), time.perf_counter() - began)


def _margin(row: OutputComparison) -> float:
    """How many times its error, or that of its worst slice, goes into its limit."""
    whole = row.error_limit / row.error if row.error else float("inf")
    own = row.slice_limit / row.slice_normalized_error if row.slice_normalized_error else float("inf")
    return min(whole, own)


class _Gate:
    """The gate, and the float64 evaluation that tells survivors from equivalents."""

    def __init__(
        self,
        model: onnx.ModelProto,
        cases: Sequence[Case],
        outputs: Sequence[TensorSpec],
        tolerance: float,
        told_by: int,
        backend: str,
        snr: float | None,
    ) -> None:
        self.cases, self.outputs, self.tolerance, self.snr = cases, outputs, tolerance, snr
        self.model, self.told_by, self.backend = model, told_by, backend
        self.shares = slices.shares(cases)
        self._exact: OnnxEvaluator | None = None
        self._wanted: dict[int, dict[str, NDArray[Any]]] = {}

    def __call__(self, mutation: Mutation, mutant: onnx.ModelProto, path: Path) -> MutantResult:
        save(mutant, path)
        k, below = 0.0, float("inf")
        try:
            with opened(self.backend, path, Options()) as run:
                for case in self.cases:  # the first case that fails settles it
                    parity = prove(
                        run,
                        [case],
                        self.outputs,
                        backend="",
                        tolerance=self.tolerance,
                        snr=self.snr,
                        shares=self.shares,
                    )
                    worst = parity.worst
                    k = max(k, worst.normalized_error, worst.slice_normalized_error)
                    if not parity.ok:
                        why = worst.failure or f"k = {k:.3g} in case '{case.name}'"
                        return MutantResult(mutation.name, mutation.kind, "killed", k, reason=why)
                    below = min(below, *map(_margin, parity.comparisons))
        except BackendError as error:
            return MutantResult(mutation.name, mutation.kind, "invalid", 0.0, reason=first_line(error))
        try:
            distance = self._distance(mutant)
        except ExportError as error:
            why = f"whether it is equivalent is not known: {error}"
            return MutantResult(mutation.name, mutation.kind, "survived", k, below, reason=why)
        if distance <= EQUIVALENT:
            told = min(self.told_by, len(self.cases))
            why = f"differs by {distance:.1e} in float64, bound {EQUIVALENT:g}, on {told} cases"
            return MutantResult(mutation.name, mutation.kind, "equivalent", k, below, distance, reason=why)
        why = f"stays {below:.3g} times below the bound; differs by {distance:.1e} in float64"
        return MutantResult(mutation.name, mutation.kind, "survived", k, below, distance, reason=why)

    def _distance(self, mutant: onnx.ModelProto) -> float:
        """Relative difference of mutant and model in float64, in the first case that shows one; 0 if none does."""
        changed, worst = OnnxEvaluator(mutant), 0.0
        for index, case in enumerate(self.cases[: self.told_by]):
            if index not in self._wanted:
                self._exact = self._exact or OnnxEvaluator(self.model)
                self._wanted[index] = self._exact.run(case.inputs)
            got = changed.run(case.inputs)
            for name, value in self._wanted[index].items():
                size = float(np.linalg.norm(value)) or 1.0
                worst = max(worst, float(np.linalg.norm(got[name].astype(np.float64) - value)) / size)
            if worst > EQUIVALENT:
                break
        return worst
