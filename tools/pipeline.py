"""The main job: subject → export → fuse → simplify → bundle → parity → latency. Each stage is a function elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from attn_export import bundle
from attn_export.deploy_tests import environment
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.contest import Contest, Rules, compete
from attn_export.deploy_tests.latency import Latency, Protocol
from attn_export.deploy_tests.parity import TOLERANCE, Parity, prove
from attn_export.deploy_tests.verify import latency, verify
from attn_export.errors import ContractError, ExportError, GateError, UnknownNameError
from attn_export.export import contract, onnx_file
from attn_export.export.exported import Exported
from attn_export.export.save import save
from attn_export.export.simplify import simplify
from attn_export.export.torch_onnx import OPSET, export
from attn_export.export.truth import cases
from attn_export.mechanisms.subject import Subject
from attn_export.reparam.fusion import Fusion
from attn_export.reparam.graph import fuse_graph
from attn_export.tools.progress import Progress

#: Cases that the fusion's certificate runs in float64; parity runs all of them.
CERTIFIED = 2


@dataclass(frozen=True)
class Plan:
    """What the user asked for."""

    target: Path
    fuse: bool = False
    cost: str = "cpu"
    keep: Sequence[str] = ()
    strict: bool = False
    simplify: bool = True
    opset: int = OPSET
    seed: int = 0
    threads: int = 1
    atol: float | None = None
    rtol: float | None = None
    measure: bool = True
    protocol: Protocol = field(default_factory=Protocol)
    rules: Rules = field(default_factory=Rules)
    command: Sequence[str] = ()


@dataclass(frozen=True)
class Step:
    """One stage's result: nodes, bytes, parity of what it gave, and its latency where that was measured."""

    name: str
    nodes: int | None
    bytes: int | None
    parity: Parity
    latency: Latency | None = None


@dataclass(frozen=True)
class Outcome:
    """What the main job gave."""

    subject: Subject
    target: Path
    steps: tuple[Step, ...]
    fusion: Fusion[onnx.ModelProto] | None
    contest: Contest | None
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]


def deploy(subject: Subject, plan: Plan, progress: Progress) -> Outcome:
    """Run the whole job and write the bundle at ``plan.target``, or nothing.

    Raises:
        GateError: the fusion's certificate or a parity check failed; nothing was written.
        ConversionError, BackendError, WriteError: as the stages.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(bundle.writing(plan.target))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return _Job(subject, plan, progress, folder, scratch).run()


class _Job:
    """The state of one run: what has been made so far, for the stages that need it."""

    def __init__(self, subject: Subject, plan: Plan, progress: Progress, folder: Path, scratch: Path) -> None:
        self.subject, self.plan, self.progress = subject, plan, progress
        self.folder, self.scratch = folder, scratch
        self.steps: list[Step] = []
        self.warnings: list[str] = []
        self.models: dict[str, Path] = {}

    def run(self) -> Outcome:
        with self.progress.stage("float64 truth"):
            self.cases = cases(self.subject, self.plan.seed)
            self.progress.detail(f"{len(self.cases)} cases")
        plain = self._export("export, un-fused" if self.plan.fuse else "export")
        fusion = self._fuse(plain) if self.plan.fuse else None
        final = Exported(fusion.model, plain.contract) if fusion else plain
        if self.plan.simplify:
            final = self._simplify(final)
        with self.progress.stage("write the bundle"):
            save(final.model, self.folder / bundle.MODEL)
            bundle.write_cases(self.folder / bundle.CASES, self.cases)
            bundle.write_manifest(self.folder, self._manifest(final, fusion))
            whole = bundle.read(self.folder)
        with self.progress.stage("prove the bundle"):
            parity = verify(whole, "onnxruntime", threads=self.plan.threads, atol=self.plan.atol, rtol=self.plan.rtol)
            self._gate(parity)
        contest = self._measure(whole, plain if fusion else None) if self.plan.measure else None
        bundle.write_json(self.folder / bundle.REPORT, self._report(parity, contest))
        return Outcome(
            self.subject,
            self.plan.target,
            tuple(self.steps),
            fusion,
            contest,
            tuple(self.warnings),
            self.progress.seconds,
        )

    def _export(self, name: str) -> Exported:
        with self.progress.stage(name):
            graph = isinstance(self.subject.module, onnx_file.GraphModule)
            exported = onnx_file.exported(self.subject) if graph else export(self.subject, self.plan.opset)
            parity = self._step(name, exported)
        self._gate(parity)
        return exported

    def _fuse(self, plain: Exported) -> Fusion[onnx.ModelProto]:
        """Collapse the graph; what was not collapsed, and what had to be rolled back, is said."""
        with self.progress.stage("fuse"):
            feeds = [case.inputs for case in self.cases[:CERTIFIED]]
            fusion = fuse_graph(plain.model, cost=self.plan.cost, keep=self.plan.keep, cases=feeds)
            if not fusion.certificate.ok:
                raise GateError(
                    f"fusing changed the model: worst error {fusion.certificate.worst:.3g} in float64,"
                    f" bound {fusion.certificate.bound:g}; nothing was written"
                )
            fused = contract.check(fusion.model, plain.contract)
            parity = self._step("fuse", fused)
            self.progress.detail(f"{len(fusion.sites)} sites, {plain.nodes} → {fused.nodes} nodes")
        self._gate(parity)
        if not fusion.sites:
            self._warn("nothing was fused: no region that can be collapsed and pays was found")
        rolled = [refusal for refusal in fusion.refusals if refusal.reason.startswith("rolled back")]
        for refusal in rolled:
            self._warn(f"{refusal.name}: {refusal.reason}; {refusal.remedy}")
        if rolled and self.plan.strict:
            raise GateError(f"{len(rolled)} sites were rolled back, and --strict was asked for; nothing was written")
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
            self._warn(f"simplification was rolled back: {parity.sentence()}")
            return exported
        return simplified

    def _step(self, name: str, exported: Exported) -> Parity:
        path = self.scratch / f"{len(self.steps)}.onnx"
        save(exported.model, path)
        self.models[name] = path
        runtime = BACKENDS["onnxruntime"]
        with runtime.open(path, Options(threads=self.plan.threads)) as run:
            parity = prove(run, self.cases, exported.contract.outputs, backend=runtime.version())
        self.steps.append(Step(name, exported.nodes, exported.bytes, parity))
        self.progress.detail(f"{exported.nodes} nodes, k = {parity.worst.k:.2f} of {parity.tolerance:g}")
        return parity

    def _gate(self, parity: Parity) -> None:
        if not parity.ok:
            name = self.steps[-1].name if self.steps else "export"
            raise GateError(f"after '{name}': {parity.sentence()}; nothing was written")

    def _measure(self, whole: bundle.Bundle, plain: Exported | None) -> Contest | None:
        with self.progress.stage("latency"):
            timed = latency(whole, "onnxruntime", threads=self.plan.threads, protocol=self.plan.protocol)
            self.steps[-1] = replace(self.steps[-1], latency=timed)
        if plain is None:
            return None
        with self.progress.stage("fused against un-fused"):
            contest = compete(
                whole.model,
                self._twin(plain),
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
        """The un-fused model through the same simplifier, so that only the fusion differs."""
        path = self.scratch / "twin.onnx"
        try:
            save((simplify(plain) if self.plan.simplify else plain).model, path)
        except (ContractError, ExportError):
            save(plain.model, path)
        return path

    def _manifest(self, final: Exported, fusion: Fusion[onnx.ModelProto] | None) -> dict[str, Any]:
        return {
            "subject": {
                "name": self.subject.name,
                "weights": self.subject.weights,
                "fused": fusion is not None,
                "seed": self.plan.seed,
            },
            "command": list(self.plan.command),
            "opset": final.contract.opset,
            "ir_version": final.model.ir_version,
            "inputs": [asdict(port) for port in final.contract.inputs],
            "outputs": [asdict(port) for port in final.contract.outputs],
            "varying": [asdict(dim) for dim in self.subject.dynamic],
            "tolerance": {"k": TOLERANCE, "rule": "error <= k * max(yardstick, 8 * 2**-24 * norm(truth))"},
            "stages": [
                {
                    "name": step.name,
                    "nodes": step.nodes,
                    "bytes": step.bytes,
                    "sha256": bundle.sha256(self.models[step.name]) if step.name in self.models else None,
                    "worst_k": step.parity.worst.k,
                }
                for step in self.steps
            ],
            "fusion": {
                "cost": self.plan.cost,
                "keep": list(self.plan.keep),
                "sites": [asdict(site) for site in fusion.sites],
                "refusals": [asdict(refusal) for refusal in fusion.refusals],
                "certificate": {"worst": fusion.certificate.worst, "bound": fusion.certificate.bound},
            }
            if fusion
            else None,
            "operators": final.operators,
            "warnings": self.warnings,
            "environment": environment.describe(),
        }

    def _report(self, parity: Parity, contest: Contest | None) -> dict[str, Any]:
        timed = self.steps[-1].latency
        return {
            "runs": [
                {
                    "backend": parity.backend,
                    "environment": environment.describe(),
                    "parity": parity.as_json(),
                    "latency": timed.as_json() if timed else None,
                    "fused_against_unfused": contest.as_json() if contest else None,
                }
            ]
        }

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.progress.warn(text)


def with_dynamic(subject: Subject, wanted: str) -> Subject:
    """Keep the dynamic dimensions that the user asked for: ``batch`` (called ``b``), ``all``, ``none``, or names.

    Raises:
        UsageError: a name is no dimension of the subject that may vary.
    """
    known = {dim.name: dim for dim in subject.dynamic}
    names: Sequence[str]
    match wanted:
        case "none":
            names = ()
        case "all":
            names = tuple(known)
        case "batch":
            names = ("b",) if "b" in known else ()
        case _:
            names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in known:
            raise UnknownNameError(f"dynamic dimension of {subject.name}", name, [*known, "all", "batch", "none"])
    return replace(subject, dynamic=tuple(known[name] for name in names))
