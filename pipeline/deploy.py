"""The main job: a subject through the stages, a gate behind each, and the bundle that proves itself again.

cases ──► stages and gate ──► audit ──► injected faults ──► bundle ──► parity of the bundle ──► latency ──► report
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor

from attn_export import bundle
from attn_export.bundle import Bundle, Case, Selection, rows
from attn_export.deploy_tests.backends import DEFAULT, backend_for
from attn_export.deploy_tests.data import inputs as user_inputs
from attn_export.deploy_tests.data import split as divided
from attn_export.deploy_tests.latency.comparison import LatencyComparison, compare_latency
from attn_export.deploy_tests.machine.emulated import refuse_to_measure
from attn_export.deploy_tests.measurement import Measurement, MeasureOptions, measure_bundle
from attn_export.deploy_tests.parity.compare import Parity
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import ConversionError, ExportError, GateError, InconclusiveError
from attn_export.export import promise, reference
from attn_export.export.arrays import arrays, tensor
from attn_export.export.audit import constants
from attn_export.export.audit.constants import Auditor, first_of
from attn_export.export.audit.findings import Audit
from attn_export.export.audit.fused import auditor_of_fused
from attn_export.export.audit.layers import LOCAL, Local
from attn_export.export.cases.plan import single
from attn_export.export.converters import PRECISIONS
from attn_export.export.graph import cost, origin, selections
from attn_export.export.graph.chosen_order import ordering
from attn_export.export.onnx.exported import Exported
from attn_export.export.onnx.save import save
from attn_export.export.subject import Subject
from attn_export.pipeline import before_choice, int8, int8_job, manifest, stages
from attn_export.pipeline.built import Built, Shelf
from attn_export.pipeline.divergence.locate import layer_errors
from attn_export.pipeline.gate import ParityGate
from attn_export.pipeline.int8 import Int8Model
from attn_export.pipeline.int8_job import Int8Found, OwnData
from attn_export.pipeline.manifest import StageResult
from attn_export.pipeline.mutation_score import MutationScore, refuse_vacuous
from attn_export.pipeline.mutation_testing import FAST_SHARE, run_mutants
from attn_export.pipeline.options import DeployOptions
from attn_export.pipeline.outcome import DeployResult
from attn_export.pipeline.progress import Progress
from attn_export.pipeline.report.page import render
from attn_export.pipeline.stage import Made, PipelineState
from attn_export.reparam.result import Fusion
from attn_export.types import TensorSpec

#: Bytes of the model before any stage, up to which the bundle holds it as well.
ORIGINAL_BYTES = 256_000_000
#: Seconds that injecting faults may take where nothing else took any.
LEAST = 1.0


@dataclass(frozen=True)
class Audited:
    """What was compared bit by bit, and layer by layer."""

    auditor: Auditor
    audits: Mapping[str, Audit]
    layers: tuple[Local, ...]
    warnings: tuple[str, ...]


def deploy(
    subject: Subject,
    options: DeployOptions,
    progress: Progress | None = None,
    *,
    examples: Mapping[str, Mapping[str, Tensor]] | None = None,
    shelf: Shelf | None = None,
) -> DeployResult:
    """Run the whole job and write the bundle at ``options.output``, or nothing.

    ``examples`` are inputs of the caller's, which become cases under their names beside those that are drawn. What the
    stages make is taken from the ``shelf``, where it lies there, and put there.

    Raises:
        GateError: the fusion's certificate, an audit or a parity check failed; nothing was written.
        InconclusiveError: the parity check would let zeros or the input pass, or latency is asked for on an emulated
            processor; nothing was written.
        UsageError: int8 is asked for without what it takes.
        ConversionError, BackendError, WriteError: as the stages.
    """
    if options.bench:
        refuse_to_measure()
    parts = int8_job.divided_data(options)
    progress = progress or Progress()
    if options.build.int8 is not None or examples:
        shelf = None  # what int8 is made from is in no state; examples are in no command line
    target = options.output or Path(subject.name.replace(":", "-"))
    with ExitStack() as stack:
        folder = stack.enter_context(bundle.writing(target))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return _deploy(subject, options, progress, _Places(target, folder, scratch), examples or {}, parts, shelf)


@dataclass(frozen=True)
class _Places:
    """Where the bundle will lie, where it grows, and where nothing is kept."""

    target: Path
    folder: Path
    scratch: Path


def _deploy(
    subject: Subject,
    options: DeployOptions,
    progress: Progress,
    places: _Places,
    examples: Mapping[str, Mapping[str, Tensor]],
    parts: divided.Split | None,
    shelf: Shelf | None,
) -> DeployResult:
    folder = places.folder
    began = time.process_time()
    if (there := shelf.take() if shelf else None) is not None:
        state, gate = _from_shelf(subject, there, options, progress, places)
        cases, data, began = there.cases, there.data, began - there.spent
    else:
        state, cases, data, gate = _build(subject, options, progress, places, examples, parts)
        if shelf is not None:
            kept = None if data is None else replace(data, feeds={})
            spent = time.process_time() - began
            said = tuple(text for text in state.warnings if text in progress.warned)
            times = dict(progress.seconds), dict(progress.processor)
            shelf.put(Built(state.made, state.warnings, said, cases, kept, *times, spent))
    audited = _audit(state, progress)
    for warning in audited.warnings:
        state = _warned(state, warning, progress)
    accuracy = int8_job.accuracy(state, options, places.scratch, progress)
    score = _mutants(state, options, cases, audited.auditor, time.process_time() - began, progress)
    own_score = int8_job.mutants(
        state, options, places.scratch, max(LEAST, FAST_SHARE * (time.process_time() - began)), progress
    )
    with progress.stage("write the bundle"):
        save(state.model.model, folder / bundle.MODEL)
        for name, content in ((name, content) for one in state.converted for name, content in one.files.items()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        if (account := state.account(Int8Model)) is not None:
            bundle.write_cases(folder / int8.MEANING, account.meaning)
        state = _keep_original(folder, state, options, progress)
        facts = _manifest(folder, state, options, cases, audited, score, data, Int8Found(accuracy, own_score))
        bundle.write_cases(folder / bundle.CASES, cases)
        bundle.write_manifest(folder, facts)
        whole = bundle.read(folder)
    with progress.stage("prove the bundle"):
        parity = verify(whole, DEFAULT, threads=options.threads, atol=options.atol, rtol=options.rtol)
        others = _prove_converted(whole, state, options)
    last = next(made for made in reversed(state.made) if not made.converted)
    if not parity.ok:
        text = f"after '{last.stage}': {parity.summary()}{gate.where(state, last, parity)}; nothing was written"
        raise GateError(text, parity=parity, stage=last.stage)
    measured = _measure(whole, options, progress) if options.bench else None
    comparison = None
    if measured and options.build.fuse:
        comparison, state = _compare(whole, state, options, places.scratch, progress)
    report = manifest.report(parity, measured, comparison, others)
    bundle.write_json(folder / bundle.REPORT, report)
    (folder / bundle.PAGE).write_text(render(whole.manifest, report, places.target.name), encoding="utf-8")
    bundle.write_manifest(folder, facts)  # again and last: it holds the hash of the report, too
    bundle.report(bundle.read(folder))  # what cannot be read again is not written
    results = tuple(
        replace(made.result, latency=measured.latency) if measured and made is last else made.result
        for made in state.made
        if made.result is not None
    )
    return DeployResult(
        subject,
        places.target,
        results,
        state.account(Fusion),
        score,
        comparison,
        state.warnings,
        progress.seconds,
        next((one["quantisation"] for one in facts["artifacts"] if one.get("quantisation")), None),
        own_score,
    )


def _build(
    subject: Subject,
    options: DeployOptions,
    progress: Progress,
    places: _Places,
    examples: Mapping[str, Mapping[str, Tensor]],
    parts: divided.Split | None,
) -> tuple[PipelineState, tuple[Case, ...], user_inputs.UserInputs | None, ParityGate]:
    """Run the stages behind their gates: with the last state come the cases, the user's data, and the gate."""
    with progress.stage("two runs agree"):
        reference.refuse_dice(subject, options.seed)
    # The export comes first: it tells what sizes can be promised, and the cases are what proves them.
    state = stages.run(PipelineState(subject, ()), options.build, through=stages.EXPORT.name, progress=progress)
    subject, narrowed = promise.kept(subject, state.model)
    left_out, notes = list(narrowed), list[str]()
    chosen = _selections(subject, state, left_out.append)
    notes += [one.summary() for one in chosen]
    try:
        cases, own = _cases(subject, options, progress, examples, parts, chosen, left_out.append, notes.append)
    except InconclusiveError as error:
        names = [port.name for port in state.model.contract.outputs]
        picked = ordering(state.model.model, names, is_file=subject.graph is not None)
        raise InconclusiveError(f"{error}{picked}") from error
    cases = rows.with_order(cases)
    data = own.inputs if own else None
    before_choice.refuse_nothing(state.model.model, cases, is_file=subject.graph is not None)
    before = before_choice.of(state.model.model, cases, places.scratch) if chosen else None
    gate = ParityGate(cases, places.scratch, options.threads, before, _names(data))
    state = replace(state, subject=subject, feeds=tuple(case.inputs for case in cases))
    state = replace(state, int8=int8_job.inputs(state, cases, own, options, places.scratch, progress))
    for text in left_out:
        state = _warned(state, text, progress)
    for text in notes:
        state = state.with_warning(text)
    if data is not None and data.left:
        text = f"only the first {user_inputs.LIMIT} files of {options.data} are used; {data.left} were skipped"
        state = _warned(state, text, progress)
    with progress.stage("prove the export"):
        state = stages.proven(state, gate)
        if (proof := state.made[-1].result) is not None:
            progress.detail(proof.summary())
    state = stages.run(state, options.build, gate=gate, progress=progress)
    return state, cases, data, gate


def _from_shelf(
    subject: Subject, there: Built, options: DeployOptions, progress: Progress, places: _Places
) -> tuple[PipelineState, ParityGate]:
    """Give the state in which an earlier run has left the subject, and say again what it said."""
    for text in there.said:
        progress.warn(text)
    progress.seconds |= there.seconds
    progress.processor |= there.processor
    made = tuple(_with_its_file(one, places.scratch / f"{number}.onnx") for number, one in enumerate(there.made))
    feeds = tuple(case.inputs for case in there.cases)
    subject, _ = promise.kept(subject, there.made[0].exported)
    gate = ParityGate(there.cases, places.scratch, options.threads, None, _names(there.data))
    return PipelineState(subject, feeds, made, there.warnings), gate


def _names(data: user_inputs.UserInputs | None) -> frozenset[str]:
    """Name the cases that are the user's own."""
    return frozenset(data.files if data else ())


def _with_its_file(made: Made, path: Path) -> Made:
    """Write a stage's model where its result says that it lies: the manifest has its hash."""
    if made.result is None or made.result.model is None:
        return made
    save(made.exported.model, path)
    return replace(made, result=replace(made.result, model=path))


def _keep_original(folder: Path, state: PipelineState, options: DeployOptions, progress: Progress) -> PipelineState:
    """Write the model before any stage changed it, for ``verify --fresh``, unless it is not wanted or large."""
    first = state.made[0].exported
    if not options.original:
        return state
    if first.bytes > ORIGINAL_BYTES:
        size = f"{first.bytes / 1e6:.0f} MB"
        text = f"the model before any stage ({size}) is not kept in the bundle, so `verify --fresh` cannot be run on it"
        return _warned(state, text, progress)
    save(first.model, folder / bundle.ORIGINAL)
    return state


def _prove_converted(whole: Bundle, state: PipelineState, options: DeployOptions) -> dict[str, tuple[str, Parity]]:
    """Prove the model in every further format, as the bundle holds it: by artifact the backend and the parity.

    Raises:
        GateError: one of them computes something else.
    """
    found = {}
    for one in state.converted:
        if one.checked:
            continue
        runtime = backend_for(one.kind)
        parity = verify(whole, runtime, threads=options.threads, artifact=one.name)
        if not parity.ok:
            text = f"after 'convert', {one.name}: {parity.summary()}; nothing was written"
            raise GateError(text, parity=parity, stage="convert")
        found[one.name] = runtime, parity
    return found


def _cases(
    subject: Subject,
    options: DeployOptions,
    progress: Progress,
    examples: Mapping[str, Mapping[str, Tensor]],
    parts: divided.Split | None,
    chosen: tuple[Selection, ...],
    said: Callable[[str], None],
    noted: Callable[[str], None],
) -> tuple[tuple[Case, ...], OwnData | None]:
    """Make the inputs with their float64 reference: those that are drawn, and the user's own."""
    with progress.stage("float64 reference"):
        halves = options.build.fp16 or any(
            PRECISIONS.get(text.partition(":")[2]) in bundle.HALVES for text in options.build.to
        )
        cases = reference.cases(
            subject, options.seed, said, noted, float16=options.build.fp16, spread=halves, selections=chosen
        )
        if examples:
            cases += reference.on(subject, examples.items(), said, chosen)
        progress.detail(f"{len(cases)} cases")
    if options.data is None:
        return cases, None
    with progress.stage("reference on your data"):
        if parts is None:
            data = user_inputs.read_inputs(options.data, _specs(subject), options.preprocess)
        else:
            parts = parts.taking(_specs(subject))
            noted(f"int8: {parts.summary()}")
            data = parts.cases()
        feeds = [
            (name, {item.name: tensor(values[item.name], item.dtype) for item in subject.inputs})
            for name, values in data.feeds.items()
        ]
        progress.detail(f"{len(feeds)} cases")
        return (*cases, *reference.on(subject, feeds, said, chosen)), OwnData(data, parts)


def _selections(subject: Subject, state: PipelineState, said: Callable[[str], None]) -> tuple[Selection, ...]:
    """Find the outputs whose rows an operator of the exported graph chose, on the first case's inputs."""
    feeds = arrays(subject.example(sizes=single(subject)))
    try:
        return selections.found(state.model.model, feeds)
    except ExportError as error:
        said(f"whether outputs hold rows that an operator put in order is not known: {error}")
        return ()


def _specs(subject: Subject) -> tuple[TensorSpec, ...]:
    """Say what the model will take: names where a size may vary, numbers elsewhere."""
    free = {dim.name for dim in subject.dynamic}
    return tuple(
        TensorSpec(
            item.name,
            item.dtype,
            tuple(dim if isinstance(dim, int) or dim in free else subject.sizes[dim] for dim in item.shape),
        )
        for item in subject.inputs
    )


def _audit(state: PipelineState, progress: Progress) -> Audited:
    """Compare constants bit for bit with the module, attributes with the stage before: what k cannot see.

    Raises:
        GateError: a constant or an attribute is not what it was.
    """
    final, plain, fusion = _float32(state), state.made[0].exported, state.account(Fusion)
    with progress.stage("audit"):
        wanted = constants.known(state.subject.module)
        if fusion and fusion.sites:  # its certificate answers for the sites, the audits for the rest
            auditor = auditor_of_fused(wanted, plain.model, fusion.model)
        else:
            auditor = constants.auditor(wanted, plain.model)
        audits = auditor.audits(final.model)
        # A layer is judged in roundings of float32: what rounds further by itself has no such measure.
        layers = layer_errors(final.model, state.feeds[0]) if state.made[0].snr is None else ()
        count = sum(found.checked for found in audits.values())
        progress.detail(f"{count} constants and attributes, {len(layers)} layers")
    if finding := first_of(audits):
        raise GateError(f"parity holds, but the {finding}; nothing was written")
    # Correct graphs come near this bound, so it says where to look, and gates nothing.
    warnings = tuple(
        f"{layer.op} {layer.node!r} is off by {layer.error:.3g} ulp (expected at most {LOCAL:g}); parity still holds"
        for layer in layers
        if not layer.ok
    )
    return Audited(auditor, audits, layers, warnings)


def _float32(state: PipelineState) -> Exported:
    """Return the last model before weights were scaled or rounded: what audits and injected faults look at."""
    later = {stages.EQUALIZE.name, stages.PRECISION.name}
    return next((before for before, made in pairwise(state.made) if made.stage in later), state.made[-1]).exported


def _mutants(
    state: PipelineState,
    options: DeployOptions,
    cases: tuple[Case, ...],
    auditor: Auditor,
    spent: float,
    progress: Progress,
) -> MutationScore | None:
    """Check the check: injected faults must not pass the gate, above all not zeros or the input itself."""
    if options.mutants == "none":
        return None
    final = _float32(state)
    with progress.stage("inject faults"):
        budget, limit = (None, None) if options.mutants == "full" else _seconds(state, spent, progress)
        held = state.made[0].snr
        score = run_mutants(
            final.model, cases, final.contract.outputs, budget=budget, limit=limit, second=auditor, snr=held
        )
        progress.detail(score.summary())
    refuse_vacuous(score)
    return score


def _seconds(state: PipelineState, spent: float, progress: Progress) -> tuple[float, float]:
    """Say how long injected faults may take, and one of each kind: no longer than PyTorch's exporter, where it ran.

    In seconds of the processor: what else a machine does is no reason to try fewer of them.
    """
    budget = max(LEAST, FAST_SHARE * spent)
    if state.subject.graph is not None:
        return budget, budget
    limit = max(LEAST, progress.processor[stages.EXPORT.name])
    return min(budget, limit), limit


def _measure(whole: Bundle, options: DeployOptions, progress: Progress) -> Measurement:
    with progress.stage("latency"):
        asked = MeasureOptions(threads=options.threads, protocol=options.protocol, profile=True)
        measured = measure_bundle(whole, DEFAULT, asked, progress=progress.detail)
    for warning in measured.warnings:
        progress.warn(str(warning))
    return measured


def _compare(
    whole: Bundle, state: PipelineState, options: DeployOptions, scratch: Path, progress: Progress
) -> tuple[LatencyComparison | None, PipelineState]:
    """Compare the fused model with the original, which goes through the same stages except fusion."""
    with progress.stage("fused vs. original"):
        try:
            baseline = stages.run(
                state.back_to(stages.EXPORT.name), replace(options.build, fuse=False, to=(), int8=None)
            )
        except ConversionError as error:  # what was proven is not lost for want of a comparison
            text = f"no ratio can be given: the original model has no {options.build.precision}: {error}"
            return None, _warned(state, text, progress)
        path = scratch / "baseline.onnx"
        save(baseline.model.model, path)
        comparison = compare_latency(
            whole.model,
            path,
            whole.path / bundle.CASES,
            rules=replace(options.rules, threads=options.threads),
            progress=progress.detail,
        )
    if comparison.void:
        text = (
            f"no ratio is reported: the A/A run is not 1.0 ({comparison.control});"
            " measure on a quieter machine with `attn-export bench`"
        )
        state = _warned(state, text, progress)
    return comparison, state


def _results(state: PipelineState) -> tuple[StageResult, ...]:
    return tuple(made.result for made in state.made if made.result is not None)


def _warned(state: PipelineState, text: str, progress: Progress) -> PipelineState:
    progress.warn(text)
    return state.with_warning(text)


def _manifest(
    folder: Path,
    state: PipelineState,
    options: DeployOptions,
    cases: tuple[Case, ...],
    audited: Audited,
    score: MutationScore | None,
    data: user_inputs.UserInputs | None,
    found: Int8Found,
) -> dict[str, Any]:
    build, subject, plain = options.build, state.subject, state.made[0].exported.model
    fusion: Fusion[onnx.ModelProto] | None = state.account(Fusion)
    sizes = {name: value.shape for name, value in cases[0].inputs.items()}
    rows = cost.costs(state.model.model, sizes, cost.origins_of(plain))
    more = {
        "subject": {
            "name": subject.name,
            "weights": subject.weights,
            "fused": fusion is not None,
            "seed": options.seed,
            "outputs": dict(subject.outputs),
        },
        "command": list(options.command),
        "artifacts": [
            manifest.artifact(folder, state.precision),
            *(int8_job.artifact(state, made, one, found) for made in state.made for one in made.converted),
        ],
        "original": bundle.ORIGINAL if (folder / bundle.ORIGINAL).exists() else None,
        "fusion": manifest.fusion(fusion, build.fuse_cost, build.keep_branches, build.border_maps) if fusion else None,
        "audits": manifest.audits(audited.audits, audited.layers),
        "mutation": score.to_dict() if score else None,
        "costs": cost.to_manifest(rows, cases[0].name),
        "source_locations": origin.record(state.model.model, origin.origins(plain)),
        "data": data.to_dict() if data else None,
        "selections": [asdict(one) for one in cases[0].selections],
        "warnings": list(state.warnings),
    }
    return manifest.manifest(subject, state.model, _results(state), more)
