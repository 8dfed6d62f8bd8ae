"""Faults of quantisation put into a model in int8, and whether its own checks see them: the measure, or the audit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import DEFAULT, opened
from attn_export.deploy_tests.parity.int8 import prove_int8
from attn_export.errors import BackendError
from attn_export.export.audit import quantised as audit
from attn_export.export.mutants import quantised as faults
from attn_export.export.mutants.catalogue import Mutation
from attn_export.export.onnx.save import save
from attn_export.pipeline.int8 import Int8Inputs, Int8Model
from attn_export.pipeline.mutation_score import MutantResult, MutationScore
from attn_export.process import activity
from attn_export.types import TensorSpec
from attn_export.untrusted.text import first_line


@dataclass(frozen=True)
class Int8Gate:
    """What a model in int8 must pass: the same proof and the same audit as in the job.

    Attributes:
        made: the model, correct.
        inputs: the cases of the user's data.
        outputs: of the model.
        folder: where mutants may lie.
        kept: what the model itself keeps, in dB at the median image.
    """

    made: Int8Model
    inputs: Int8Inputs
    outputs: tuple[TensorSpec, ...]
    folder: Path
    kept: float

    def __call__(self, mutation: Mutation) -> MutantResult:
        """Say what becomes of one fault."""
        mutant = mutation.of(self.made.quantised.model)
        path = self.folder / "int8-mutant.onnx"
        save(mutant, path)
        result = MutantResult(mutation.name, mutation.kind, "survived", 0.0)
        known = {case.name: case for case in self.inputs.cases}
        meaning: Sequence[Case] = [
            replace(case, inputs=known[case.name].inputs, selections=known[case.name].selections)
            for case in self.made.meaning
        ]
        try:
            with opened(DEFAULT, path, Options(precision="int8")) as run:
                parity = prove_int8(
                    run,
                    meaning,
                    self.inputs.cases,
                    self.outputs,
                    backend="",
                    batched=self.inputs.batched,
                    snr=self.made.snr,
                    limit=max(self.made.asked.least_snr or 0.0, self.kept - bundle.DOUBLE_DB),
                )
        except BackendError as error:
            return replace(result, verdict="invalid", reason=first_line(error))
        if not parity.ok:
            wrong = [one.brief() for one in parity.centred if not one.ok] or [parity.summary()]
            return replace(result, verdict="killed", reason=wrong[0])
        if seen := audit.audit(mutant, self.made.usual):
            return replace(result, caught_by_audit="codes", reason=seen[0])
        kept = parity.centred[0].least.median_db
        # It adds less noise than quantising did: no check could tell it from another runtime's rounding.
        why = f"keeps {kept:.1f} dB at the median image, and the model itself {self.kept:.1f} dB"
        return replace(result, verdict="equivalent", reason=why)


def run_mutants(gate: Int8Gate, *, budget: float | None) -> MutationScore:
    """Try the faults of quantisation, one of each kind at least, and more as long as ``budget`` (seconds) lasts."""
    began = time.perf_counter()
    rows = faults.mutations(gate.made.quantised.model, gate.made.images)
    tried = set[str]()
    found = []
    for mutation in rows:
        if budget is not None and time.perf_counter() - began > budget and mutation.kind in tried:
            continue
        tried.add(mutation.kind)
        with activity.doing(f"trying the injected fault {mutation.name!r}", who="", model=""):
            found.append(gate(mutation))
    return MutationScore("full" if budget is None else "fast", len(rows), tuple(found), time.perf_counter() - began)
