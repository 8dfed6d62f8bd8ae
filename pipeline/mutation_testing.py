"""Check the check: inject faults into a model, one at a time, and see whether the parity gate notices.

The share noticed is the mutation score. A fault that is still there in a float64 evaluation but stays under the bound
has survived; one that changes nothing even in float64 is equivalent, and counts for neither side. A fault that shows on
some inputs only is never equivalent: where no case has such inputs it has survived, and that is said.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from attn_export.bundle import Case, rows
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import DEFAULT, opened
from attn_export.deploy_tests.parity import slices
from attn_export.deploy_tests.parity.compare import TOLERANCE, OutputComparison, prove
from attn_export.errors import BackendError, ExportError
from attn_export.export.graph import cost
from attn_export.export.graph.later import later
from attn_export.export.mutants.catalogue import Mutation, mutations
from attn_export.export.onnx.save import save
from attn_export.export.onnx.shared_weights import shared
from attn_export.pipeline.mutation_score import MutantResult, MutationScore
from attn_export.process import activity
from attn_export.reparam.adapters.onnx.nodes import inputs_of
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.reparam.evaluate.shared import Shared
from attn_export.types import TensorSpec
from attn_export.untrusted.text import first_line

#: Two models are the same where their float64 evaluations differ by no more, relative to the output's norm.
EQUIVALENT = 1e-12
#: What ``fast`` may take, as a share of the time before it: a fifth of the run up to there.
FAST_SHARE = 0.25
#: Faults that are tried whatever they take, the trivial ones first: of fewer a share says nothing.
FEWEST = 6
#: Cases on which ``fast`` tells survivors from equivalents.
FAST_CASES = 2
#: Bytes of what a model makes of one case, up to which all of that is kept; and how much wider float64 is than float32.
KEPT, _WIDER = 1 << 27, 2
#: Bytes of weights that are kept in float64: every survivor is evaluated beside the model, on each of those cases.
KEPT_WEIGHTS = 1 << 30

#: Before the condition under which a survivor would show.
_UNTRIGGERED = "no case triggers it: "


def run_mutants(
    model: onnx.ModelProto,
    cases: Sequence[Case],
    outputs: Sequence[TensorSpec],
    *,
    budget: float | None = None,
    limit: float | None = None,
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
        limit: seconds that one of each kind may take as well, but for ``FEWEST``; kinds that are left are named. Both
            are of the processor, for a backend that runs in this process.
        tolerance: the gate's.
        second: given a mutant, names the graph audit that notices it, or gives an empty string.
        faults: what to try; by default all that can be made.
        backend: what runs them.
        snr: the gate of a precision below float32, in dB, in place of ``tolerance``.
    """
    began, clock = time.perf_counter(), time.process_time if backend == DEFAULT else time.perf_counter
    started = clock()
    rows = mutations(model) if faults is None else list(faults)
    judge = _Gate(model, cases, outputs, tolerance, len(cases) if budget is None else FAST_CASES, backend, snr)
    mutants: list[MutantResult] = []
    tried: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        light = shared(model, Path(folder))
        for mutation in rows:
            spent = clock() - started
            if budget is not None and spent > budget and mutation.kind in tried:
                break  # mutants come one of each kind in turn, so every kind that applies was tried by now
            if limit is not None and len(mutants) >= FEWEST and spent * (1 + 1 / len(mutants)) > limit:
                break  # the next one would end beyond it
            tried.add(mutation.kind)
            with activity.doing(f"trying the injected fault {mutation.name!r}", who="", model=""):
                result = judge(mutation, mutation.of(light), Path(folder, "mutant.onnx"))
            if result.verdict == "survived" and second is not None:
                result = replace(result, caught_by_audit=second(mutation.of(model)))
            mutants.append(result)
    mode = "full" if budget is None else "fast"
    untried = tuple(dict.fromkeys(row.kind for row in rows if row.kind not in tried))
    return MutationScore(mode, len(rows), tuple(mutants), time.perf_counter() - began, untried)


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
        self._made: dict[int, tuple[dict[str, NDArray[Any]], bool]] = {}

    def __call__(self, mutation: Mutation, mutant: onnx.ModelProto, path: Path) -> MutantResult:
        save(mutant, path)
        k, below = 0.0, float("inf")
        try:
            with opened(self.backend, path, Options()) as run:
                for case in self._in_order(mutation):  # the first case that fails settles it
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
        return self._passed(mutation, mutant, MutantResult(mutation.name, mutation.kind, "survived", k, below))

    def _passed(self, mutation: Mutation, mutant: onnx.ModelProto, result: MutantResult) -> MutantResult:
        """Say why no case caught it: none triggers it, it is the same function, or its error is too small."""
        condition = mutation.condition
        if condition and not self._triggered(mutation):
            return replace(result, reason=_UNTRIGGERED + condition.text)
        told = len(self.cases) if condition else min(self.told_by, len(self.cases))
        try:
            distance = self._distance(mutant, told)
        except ExportError as error:
            return replace(result, reason=f"whether it is equivalent is not known: {error}")
        result = replace(result, float64_distance=distance)
        if distance <= EQUIVALENT and condition:  # on other inputs it is no equal
            return replace(result, reason=_UNTRIGGERED + condition.text)
        if distance <= EQUIVALENT:
            why = f"differs by {distance:.1e} in float64, bound {EQUIVALENT:g}, on {told} cases"
            return replace(result, verdict="equivalent", reason=why)
        why = f"stays {result.margin:.3g} times below the bound; differs by {distance:.1e} in float64"
        return replace(result, reason=why)

    def _triggered(self, mutation: Mutation) -> bool:
        """Whether some case has inputs on which the fault shows, as far as inputs tell."""
        met = mutation.condition.met if mutation.condition else None
        return met is None or any(met(case.inputs) for case in self.cases)

    def _in_order(self, mutation: Mutation) -> list[Case]:
        """Order the cases, first those on which the fault shows; where it shows on none, one is enough for ``fast``."""
        met = mutation.condition.met if mutation.condition else None
        if met is None:
            return list(self.cases)
        rows = sorted(self.cases, key=lambda case: not met(case.inputs))
        return rows if self._triggered(mutation) or self.told_by >= len(rows) else rows[:1]

    def _distance(self, mutant: onnx.ModelProto, told_by: int) -> float:
        """Relative difference of mutant and model in float64, in the first case that shows one; 0 if none does."""
        self._exact = self._exact or OnnxEvaluator(self.model, kept=KEPT_WEIGHTS)
        same = {tensor.name for tensor in mutant.graph.initializer if tensor.data_location == TensorProto.EXTERNAL}
        arrays, worst = Shared(self._exact.constants, same), 0.0
        whole, part = OnnxEvaluator(mutant, arrays=arrays), OnnxEvaluator(mutant, arrays=arrays)
        part.nodes = [part.nodes[place] for place in later(self.model, mutant)]
        read = {name for node in part.nodes for name in inputs_of(node)} | set(self._exact.outputs)
        read -= {name for node in part.nodes for name in node.output}
        for index, case in enumerate(self.cases[:told_by]):
            known, is_all = self._known(index, self._exact)
            wanted = {name: known[name] for name in self._exact.outputs}
            if is_all:
                got = part.run({**case.inputs, **{name: known[name] for name in read & known.keys()}})
            else:
                got = whole.run(case.inputs)
            got = rows.matched(got, wanted, case.selections)
            for name, value in wanted.items():
                size = float(np.linalg.norm(value)) or 1.0
                if got[name].shape != value.shape:
                    return float("inf")
                worst = max(worst, float(np.linalg.norm(got[name].astype(np.float64) - value)) / size)
            if worst > EQUIVALENT:
                break
        return worst

    def _known(self, index: int, exact: OnnxEvaluator) -> tuple[Mapping[str, NDArray[Any]], bool]:
        """Give what the model makes of a case: all where that is little, else its outputs; and whether it is all."""
        if index not in self._made:
            feeds = self.cases[index].inputs
            sizes = cost.tensor_bytes(self.model, {name: value.shape for name, value in feeds.items()})
            every = [name for node in self.model.graph.node for name in node.output if name]
            little = sum(_WIDER * sizes.get(name, KEPT) for name in every) <= KEPT
            self._made[index] = exact.run(feeds, [*exact.outputs, *(every if little else ())]), little
        return self._made[index]
