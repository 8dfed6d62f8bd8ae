"""The main job: subject → export → fuse → simplify → (float16) → bundle → parity → latency. Stages are elsewhere."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from attn_export import bundle
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import BACKENDS, opened
from attn_export.deploy_tests.data import inputs
from attn_export.deploy_tests.latency.comparison import LatencyComparison, compare_latency
from attn_export.deploy_tests.measurement import Measurement, MeasureOptions, measure_bundle
from attn_export.deploy_tests.parity.compare import SNR, Parity, prove
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import AttnExportError, ContractError, ExportError, GateError
from attn_export.export import reference as truth
from attn_export.export.audit import constants
from attn_export.export.audit.findings import Audit
from attn_export.export.audit.fused import auditor_of_fused
from attn_export.export.audit.layers import LOCAL, Local
from attn_export.export.graph import cost, origin
from attn_export.export.onnx import contract
from attn_export.export.onnx.exported import Exported
from attn_export.export.onnx.save import save
from attn_export.export.onnx.simplify import simplify
from attn_export.export.onnx.torch_export import export
from attn_export.export.precision.float16 import to_float16
from attn_export.export.sources import onnx_file
from attn_export.export.subject import Subject
from attn_export.pipeline import manifest
from attn_export.pipeline.divergence.locate import first_divergence, layer_errors, locate
from attn_export.pipeline.divergence.runs import Variant
from attn_export.pipeline.divergence.variants import VariantFactory
from attn_export.pipeline.manifest import StageResult
from attn_export.pipeline.mutation_testing import FAST_SHARE, MutationScore, refuse_vacuous, run_mutants
from attn_export.pipeline.options import DeployOptions
from attn_export.pipeline.outcome import DeployResult
from attn_export.pipeline.progress import Progress
from attn_export.pipeline.report.page import render
from attn_export.reparam.fuse_onnx import fuse_graph
from attn_export.reparam.result import Fusion

#: Cases that the fusion's certificate runs in float64; parity runs all of them.
CERTIFIED = 2
#: Seconds that planting faults may take where nothing else took any.
LEAST = 1.0


def deploy(subject: Subject, plan: DeployOptions, progress: Progress) -> DeployResult:
    """Run the whole job and write the bundle at ``plan.target``, or nothing.

    Raises:
        GateError: the fusion's certificate or a parity check failed; nothing was written.
        InconclusiveError: the parity check would let zeros or the input pass; nothing was written.
        ConversionError, BackendError, WriteError: as the stages.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(bundle.writing(plan.target))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return _Job(subject, plan, progress, folder, scratch).run()


class _Job:
    """The state of one run: what has been made so far, for the stages that need it."""

    def __init__(self, subject: Subject, plan: DeployOptions, progress: Progress, folder: Path, scratch: Path) -> None:
        self.subject, self.plan, self.progress = subject, plan, progress
        self.folder, self.scratch = folder, scratch
        self.steps: list[StageResult] = []
        self.warnings: list[str] = []
        self.plain: Exported | None = None
        self.fusion: Fusion[onnx.ModelProto] | None = None
        self.audits: Mapping[str, Audit] = {}
        self.layers: tuple[Local, ...] = ()
        self.data: inputs.UserInputs | None = None
        self.began = time.perf_counter()

    def run(self) -> DeployResult:
        with self.progress.stage("float64 truth"):
            self.cases = truth.cases(self.subject, self.plan.seed)
            bundle.refuse_loose(self.cases)
            self.progress.detail(f"{len(self.cases)} cases")
        plain = self.plain = self._export("export, un-fused" if self.plan.fuse else "export")
        if self.plan.data:
            self._read_data(plain)
        fusion = self.fusion = self._fuse(plain) if self.plan.fuse else None
        final = Exported(fusion.model, plain.contract) if fusion else plain
        if self.plan.simplify:
            final = self._simplify(final)
        self._audit(final)
        single = final
        if self.plan.half:
            final = self._halve(final)
        score = self._plant(single) if self.plan.mutants != "none" else None
        with self.progress.stage("write the bundle"):
            content = self._manifest(final, fusion, score)
            save(final.model, self.folder / bundle.MODEL)
            bundle.write_cases(self.folder / bundle.CASES, self.cases)
            bundle.write_manifest(self.folder, content)
            whole = bundle.read(self.folder)
        with self.progress.stage("prove the bundle"):
            plan = self.plan
            parity = verify(whole, "onnxruntime", threads=plan.threads, atol=plan.atol, rtol=plan.rtol)
        self._gate(parity, final)
        measured = self._measure(whole) if self.plan.measure else None
        contest = self._compete(whole, plain) if measured and fusion else None
        report = manifest.report(parity, measured, contest)
        bundle.write_json(self.folder / bundle.REPORT, report)
        page = render(whole.manifest, report, self.plan.target.name)
        (self.folder / bundle.PAGE).write_text(page, encoding="utf-8")
        bundle.write_manifest(self.folder, content)  # again and last: it holds the hash of the report, too
        bundle.report(bundle.read(self.folder))  # what cannot be read again is not written
        return DeployResult(
            self.subject,
            self.plan.target,
            tuple(self.steps),
            fusion,
            score,
            contest,
            tuple(self.warnings),
            self.progress.seconds,
        )

    def _export(self, name: str) -> Exported:
        with self.progress.stage(name):
            graph = isinstance(self.subject.module, onnx_file.GraphModule)
            exported = onnx_file.exported(self.subject) if graph else export(self.subject, self.plan.opset)
            parity = self._step(name, exported)
        self._gate(parity, exported)
        return exported

    def _read_data(self, plain: Exported) -> None:
        """The user's own inputs become cases like the others."""
        assert self.plan.data is not None
        with self.progress.stage("truth on your data"):
            self.data = inputs.read_inputs(self.plan.data, plain.contract.inputs, self.plan.preprocess)
            feeds = [
                (name, {item.name: torch.from_numpy(values[item.name]) for item in self.subject.inputs})
                for name, values in self.data.feeds.items()
            ]
            self.cases = (*self.cases, *truth.on(self.subject, feeds))
            self.progress.detail(f"{len(feeds)} cases")
        if self.data.left:
            self._warn(f"{self.data.left} files of {self.plan.data} were left out: {inputs.LIMIT} prove as much")

    def _fuse(self, plain: Exported) -> Fusion[onnx.ModelProto]:
        """Collapse the graph; what was not collapsed, and what had to be rolled back, is said."""
        with self.progress.stage("fuse"):
            feeds = [case.inputs for case in self.cases[:CERTIFIED]]
            plan = self.plan
            fusion = fuse_graph(
                plain.model, cost=plan.cost, keep=plan.keep, repair=plan.repair, cases=feeds, quantization_error=True
            )
            if not fusion.certificate.ok:
                raise GateError(
                    f"fusing changed the model: worst error {fusion.certificate.worst:.3g} in float64,"
                    f" bound {fusion.certificate.bound:g}; nothing was written"
                )
            fused = contract.check(fusion.model, plain.contract)
            parity = self._step("fuse", fused)
            self.progress.detail(f"{len(fusion.sites)} sites, {plain.nodes} → {fused.nodes} nodes")
        self._gate(parity, fused)
        if not fusion.sites:
            self._warn("nothing was fused: no region that can be collapsed and pays was found")
        if fusion.certificate.left_out:
            self._warn(fusion.certificate.left_out)
        for refusal in fusion.rolled_back:
            self._warn(str(refusal))
        if fusion.rolled_back and self.plan.strict:
            count = len(fusion.rolled_back)
            raise GateError(f"{count} sites were rolled back, and --strict was asked for; nothing was written")
        return fusion

    def _simplify(self, exported: Exported) -> Exported:
        """Simplify; where that breaks the contract or the parity, say so and go on with what there was."""
        with self.progress.stage("simplify"):
            try:
                simplified = simplify(exported)
            except (ContractError, ExportError) as error:
                self._warn(f"simplification was rolled back: {error}")
                return exported
            parity = self._step("simplify", simplified)
        if not parity.ok:
            self.steps.pop()
            self._warn(f"simplification was rolled back: {parity.summary()}")
            return exported
        return simplified

    def _halve(self, exported: Exported) -> Exported:
        with self.progress.stage("float16"):
            model, report = to_float16(exported.model, [case.inputs for case in self.cases])
            halved = contract.check(model, exported.contract)
            parity = self._step("float16", halved, SNR["float16"])
            self.progress.detail(report.summary())
        self._gate(parity, halved)
        self._warn("ONNX Runtime on a CPU computes float16 graphs largely in float32: this SNR is no GPU's")
        for kept in report.kept:
            self._warn(f"{kept.op} {kept.node} stays in float32: {kept.reason}")
        return halved

    def _plant(self, final: Exported) -> MutationScore:
        """Check the check: planted faults must not pass the gate, above all not zeros or the input itself."""
        with self.progress.stage("plant faults"):
            budget = None
            if self.plan.mutants == "fast":
                budget = max(LEAST, FAST_SHARE * (time.perf_counter() - self.began))
            score = run_mutants(final.model, self.cases, final.contract.outputs, budget=budget, second=self.tier)
            self.progress.detail(score.summary())
        refuse_vacuous(score)
        return score

    def _second_tier(self) -> constants.Auditor:
        """The audits; where something was fused, its certificate answers for the sites, and they for the rest."""
        assert self.plain is not None
        wanted = constants.known(self.subject.module)
        if self.fusion and self.fusion.sites:
            return auditor_of_fused(wanted, self.plain.model, self.fusion.model)
        return constants.auditor(wanted, self.plain.model)

    def _audit(self, final: Exported) -> None:
        """Constants bit for bit against the module, attributes against the stage before: what k cannot see.

        Raises:
            GateError: a constant or an attribute is not what it was.
        """
        with self.progress.stage("audit"):
            self.tier = self._second_tier()
            self.audits = self.tier.audits(final.model)
            self.layers = layer_errors(final.model, self.cases[0].inputs)
            count = sum(found.checked for found in self.audits.values())
            self.progress.detail(f"{count} constants and attributes, {len(self.layers)} layers")
        if finding := constants.first_of(self.audits):
            raise GateError(f"parity holds, but the {finding}; nothing was written")
        for layer in self.layers:  # correct graphs come near this bound, so it says where to look, and gates nothing
            if not layer.ok:
                self._warn(
                    f"parity holds, but {layer.op} {layer.node!r} is {layer.error:.3g} roundings of its natural size"
                    f" off its float64 meaning, expected at most {LOCAL:g}"
                )

    def _step(self, name: str, exported: Exported, snr: float | None = None) -> Parity:
        path = self.scratch / f"{len(self.steps)}.onnx"
        save(exported.model, path)
        with opened("onnxruntime", path, Options(threads=self.plan.threads)) as run:
            version = BACKENDS["onnxruntime"].version()
            parity = prove(run, self.cases, exported.contract.outputs, backend=version, snr=snr)
        self.steps.append(StageResult(name, exported.nodes, exported.bytes, parity, model=path))
        self.progress.detail(f"{exported.nodes} nodes, k = {parity.worst.k:.2f} of {parity.tolerance:g}")
        return parity

    def _gate(self, parity: Parity, exported: Exported) -> None:
        """Refuse what fails, and say where it parts from the truth.

        Raises:
            GateError: parity fails.
        """
        if parity.ok:
            return
        found = self._parting(parity, exported) if not parity.worst.user_fault else ""
        raise GateError(f"after '{self.steps[-1].name}': {parity.summary()}{found}; nothing was written")

    def _parting(self, parity: Parity, exported: Exported) -> str:
        first = self.plain is None or exported is self.plain
        reference = self.plain.model if self.plain is not None and not first else None
        known = origin.origins(exported.model if self.plain is None else self.plain.model)
        failing = next(case for case in self.cases if case.name == parity.worst.case)
        try:
            feeds = [(failing.name, failing.inputs)]
            parting = locate(exported.model, feeds, reference=reference, known=known)
            if parting is None and first:  # the runtime computes what the graph says: only the module knows better
                graph = Variant("the exported graph", exported.model)
                parting = first_divergence(VariantFactory(self.subject).side("original"), graph, feeds, known)
        except AttnExportError as error:
            return f" (where it parts could not be found: {error})"
        return f"; it parts at {parting.summary()}" if parting else ""

    def _measure(self, whole: bundle.Bundle) -> Measurement:
        with self.progress.stage("latency"):
            wanted = MeasureOptions(self.plan.threads, self.plan.protocol, profile=True)
            measured = measure_bundle(whole, "onnxruntime", wanted, progress=self.progress.detail)
            self.steps[-1] = replace(self.steps[-1], latency=measured.latency)
        for warning in measured.warnings:
            self.progress.warn(str(warning))
        return measured

    def _compete(self, whole: bundle.Bundle, plain: Exported) -> LatencyComparison | None:
        with self.progress.stage("fused against un-fused"):
            try:
                twin = self._twin(plain)
            except ExportError as error:  # what was proven is not lost for want of a comparison
                self._warn(f"no ratio can be given: the un-fused model has no {self.plan.precision}: {error}")
                return None
            contest = compare_latency(
                whole.model,
                twin,
                self.folder / bundle.CASES,
                rules=replace(self.plan.rules, threads=self.plan.threads),
                progress=self.progress.detail,
            )
        if contest.void:
            self._warn(
                f"no ratio can be given: the control left 1 ({contest.control});"
                " measure on a quieter machine with `attn-export bench`"
            )
        return contest

    def _twin(self, plain: Exported) -> Path:
        """The un-fused model through the same simplifier and in the same precision, so that only the fusion differs."""
        model, path = plain.model, self.scratch / "twin.onnx"
        if self.plan.simplify:
            with suppress(ContractError, ExportError):
                model = simplify(plain).model
        if self.plan.half:
            model, _ = to_float16(model, [case.inputs for case in self.cases])
        save(model, path)
        return path

    def _manifest(
        self, final: Exported, fusion: Fusion[onnx.ModelProto] | None, score: MutationScore | None
    ) -> dict[str, Any]:
        assert self.plain is not None
        first = self.cases[0]
        sizes = {name: value.shape for name, value in first.inputs.items()}
        rows = cost.costs(final.model, sizes, cost.origins_of(self.plain.model))
        more = {
            "subject": {
                "name": self.subject.name,
                "weights": self.subject.weights,
                "fused": fusion is not None,
                "precision": self.plan.precision,
                "seed": self.plan.seed,
            },
            "command": list(self.plan.command),
            "tolerance": manifest.tolerance(self.plan.precision),
            "fusion": manifest.fusion(fusion, self.plan.cost, self.plan.keep, self.plan.repair) if fusion else None,
            "second_tier": manifest.second_tier(self.audits, self.layers),
            "mutants": score.to_dict() if score else None,
            "costs": cost.to_manifest(rows, first.name),
            "origins": origin.record(final.model, origin.origins(self.plain.model)),
            "data": self.data.to_dict() if self.data else None,
            "warnings": self.warnings,
        }
        return manifest.manifest(self.subject, final, self.steps, more)

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.progress.warn(text)
