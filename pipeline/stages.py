"""The stages, in their order, and the one place where they are run.

The main job, its unfused baseline, ``diff --between``, the compile table and the benchmarks run this same tuple.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import onnx

from attn_export import __version__
from attn_export.deploy_tests.parity.compare import SNR
from attn_export.errors import ContractError, ConversionError, ExportError, GateError
from attn_export.export.arrays import arrays
from attn_export.export.converters import CONVERTERS, Converted, Source, is_int8, parse
from attn_export.export.determinism import two_runs
from attn_export.export.exporting import export_subject
from attn_export.export.onnx import contract, narrow
from attn_export.export.onnx.exported import Exported
from attn_export.export.onnx.newer import at_least
from attn_export.export.onnx.simplify import simplify
from attn_export.export.precision import classes
from attn_export.export.precision.equalise import equalise, equalised
from attn_export.export.precision.float16 import lowered, refuse_quantised
from attn_export.export.precision.float16_policy import LARGEST, MARGIN, observe
from attn_export.export.quantise.quantise import OPSET as INT8_OPSET
from attn_export.export.subject import Subject
from attn_export.export.torch_program import TorchProgram, torch_program
from attn_export.pipeline import int8
from attn_export.pipeline.folded_norms import folded_norms
from attn_export.pipeline.int8 import Int8Model
from attn_export.pipeline.options import BuildOptions
from attn_export.pipeline.progress import Progress
from attn_export.pipeline.stage import Made, PipelineState, Stage
from attn_export.process import activity
from attn_export.reparam.fuse_onnx import fuse_graph
from attn_export.reparam.result import Fusion
from attn_export.types import Feeds

#: Inputs that the fusion's certificate runs in float64; parity runs all of them.
CERTIFIED = 2


class Gate(Protocol):
    """What every stage's model must pass before the next stage sees it."""

    def check(self, state: PipelineState, made: Made) -> Made:
        """Add to ``made`` what was measured of it."""

    def refuse(self, state: PipelineState, made: Made) -> str:
        """Say why it does not pass, or nothing where it does."""


def run(
    state: PipelineState,
    options: BuildOptions,
    *,
    through: str | None = None,
    gate: Gate | None = None,
    progress: Progress | None = None,
) -> PipelineState:
    """Run every stage that is wanted and has not run, in their order, up to the one named ``through``.

    Without a gate nothing is proven here: the caller does that, or only looks at the graph.

    Raises:
        GateError: a model does not pass the gate, or the fusion's own certificate does not hold.
        ConversionError: a stage cannot do its work; an optional one is rolled back instead.
    """
    done = {made.stage for made in state.made}
    for stage in STAGES:
        if stage.wanted(options) and stage.name not in done:
            state = _step(stage, state, options, gate, progress or Progress())
        if through in (stage.name, stage.result):
            break
    return state


def build(
    subject: Subject, options: BuildOptions, feeds: tuple[Feeds, ...] = (), *, through: str | None = None
) -> PipelineState:
    """Run the stages on a subject, without a gate; its own example is looked at where no ``feeds`` are given.

    Raises:
        ConversionError: as ``run``.
    """
    own = feeds or (arrays(subject.example()),)
    return run(PipelineState(subject, own), options, through=through)


def proven(state: PipelineState, gate: Gate) -> PipelineState:
    """Hold the newest model against the gate: of an export it is known only afterwards what can be asked of it.

    Raises:
        GateError: it does not pass.
    """
    before, made = replace(state, made=state.made[:-1]), state.made[-1]
    made = gate.check(before, made)
    if why := gate.refuse(before, made):
        raise _refused(made, why)
    return replace(state, made=(*before.made, made))


def _refused(made: Made, why: str) -> GateError:
    parity = made.result.parity if made.result else None
    return GateError(f"after '{made.stage}': {why}; nothing was written", parity=parity, stage=made.stage)


def _step(
    stage: Stage, state: PipelineState, options: BuildOptions, gate: Gate | None, progress: Progress
) -> PipelineState:
    """One stage, what it ensures, and the gate behind it."""
    if why := stage.requires(state):
        raise ConversionError(f"{stage.name}: {why}")
    with progress.stage(stage.name):
        try:
            made = stage.run(state, options)
            stage.ensures(state, made)
        except (ContractError, ExportError) as error:
            if not stage.optional:
                raise
            return _rolled_back(stage, state, str(error), progress)
        if gate is not None:
            made = gate.check(state, made)
        progress.detail(", ".join(filter(None, (made.detail, made.result.summary() if made.result else ""))))
    if gate is not None and (why := gate.refuse(state, made)):
        if stage.optional:
            return _rolled_back(stage, state, why, progress)
        raise _refused(made, why)
    for warning in made.warnings:
        progress.warn(warning)
    return state.with_made(made)


def _rolled_back(stage: Stage, state: PipelineState, why: str, progress: Progress) -> PipelineState:
    text = f"the stage '{stage.name}' was rolled back: {why}"
    progress.warn(text)
    return state.with_warning(text)


def _nothing_made(state: PipelineState) -> str:
    return "" if state.made else "expected an exported model, got none; run the stage 'export' first"


def _is_float32(state: PipelineState) -> str:
    if state.made and state.made[0].snr is not None:
        kind = state.made[0].precision
        return f"expected a float32 model, got one that computes in {kind}; leave out --fp16 and --equalize"
    kinds = {port.name: port.dtype for port in (state.model.contract.outputs if state.made else ())}
    kinds |= {item.name: item.dtype for item in state.subject.inputs}
    if found := next((name for name, kind in kinds.items() if kind == "bfloat16"), ""):
        return f"expected inputs and outputs that are no bfloat16, got {found!r}; leave out --fp16 and --equalize"
    return _nothing_made(state)


def _keeps_contract(state: PipelineState, made: Made) -> None:
    if made.exported is not state.model:  # else it was checked when it was made
        contract.check(made.exported.model, state.model.contract)


def _asserted(_state: PipelineState, _made: Made) -> None:
    """Nothing more: exporter and simplifier are called alone as well, and assert the contract themselves."""


def _draws_nothing(state: PipelineState, made: Made) -> None:
    # Two runs that agree may have been seeded by forward itself; the exported node is not.
    two_runs.refuse_random_nodes(made.exported.model, state.subject.name)


def _export(state: PipelineState, options: BuildOptions) -> Made:
    subject, exported = state.subject, export_subject(state.subject, options.opset)
    model = exported.model
    if subject.graph is None and narrow.is_wide(model) and "NOT_IMPLEMENTED" in narrow.refused(model):
        raise ExportError(
            f"{subject.name} computes in float64, for which the runtime lacks kernels: give it in float32, by a"
            " function such as def net(): return Net().float(), with inputs of float32"
        )
    found = classes.of(exported.model)
    notes = (*subject.notes, *filter(None, [found.note()]))
    return Made("export", exported, precision=found.name, snr=found.snr, warnings=notes)


def _fuse(state: PipelineState, options: BuildOptions) -> Made:
    """Collapse the graph; what was not collapsed, and what had to be rolled back, is said."""
    fusion = fuse_graph(
        state.model.model,
        fuse_cost=options.fuse_cost,
        keep_branches=options.keep_branches,
        border_maps=options.border_maps,
        cases=state.feeds[:CERTIFIED],
        certificate=options.certify,
        quantization_error=options.weight_error or (options.certify and (options.fp16 or options.int8 is not None)),
    )
    if options.fail_on_rollback and fusion.rolled_back:
        raise GateError(
            f"{len(fusion.rolled_back)} regions were rolled back, and --fail-on-rollback is set;"
            f" nothing was written: {fusion.rolled_back[0]}"
        )
    warnings = [] if fusion.sites else [_nothing_fused(state)]
    if fusion.certificate.left_out and options.certify:
        warnings.append(fusion.certificate.left_out)
    warnings += map(str, fusion.rolled_back)
    fused = state.model if fusion.model is state.model.model else Exported(fusion.model, state.model.contract)
    detail = f"{len(fusion.sites)} regions, {state.model.nodes} → {fused.nodes} nodes"
    return _made("fuse", state, fused, fusion, detail=detail, warnings=tuple(warnings))


def _nothing_fused(state: PipelineState) -> str:
    text = "nothing was fused: found no region that can be collapsed and is worth it"
    folded = folded_norms(state.subject.module, state.made[0].exported)
    return f"{text}; {folded}" if folded else text


def _made(stage: str, state: PipelineState, exported: Exported, account: object = None, **more: Any) -> Made:
    """Give what a stage made that leaves the precision as it is."""
    now = state.precision
    return Made(stage, exported, account, now.name, now.snr, **more)


def _is_certified(state: PipelineState, made: Made) -> None:
    certificate = fusion_of(made).certificate
    if not certificate.ok:
        raise GateError(
            f"fusing changed the model: expected an error of at most {certificate.bound:g} in float64,"
            f" got {certificate.worst:.3g}; nothing was written"
        )
    _keeps_contract(state, made)


def fusion_of(made: Made) -> Fusion[onnx.ModelProto]:
    """Return the account of the stage 'fuse'."""
    assert isinstance(made.account, Fusion)
    return made.account


def _simplify(state: PipelineState, _options: BuildOptions) -> Made:
    return _made("simplify", state, simplify(state.model))


def _equalize(state: PipelineState, _options: BuildOptions) -> Made:
    """Bring activations into float16's range, exactly; what cannot be brought there is said."""
    model, report = equalise(state.model.model, state.feeds)
    return _made(
        "equalize",
        state,
        replace(state.model, model=model),
        report,
        detail=report.summary(),
        warnings=tuple(map(str, report.left)),
    )


def _lower_precision(state: PipelineState, options: BuildOptions) -> Made:
    before = state.model.model
    refuse_quantised(before)
    seen = observe(before, state.feeds)
    model, report = lowered(before, seen)
    offer = "" if options.equalize else equalised(before, seen, LARGEST * MARGIN)[1].offer()
    return Made(
        "precision",
        replace(state.model, model=model),
        report,
        precision=options.precision,
        snr=SNR[options.precision],
        detail=report.summary(),
        warnings=(
            "a CPU computes float16 graphs largely in float32: this SNR does not predict a GPU's",
            *(f"{kept.op} {kept.node} stays in float32: {kept.reason}" for kept in report.kept),
            *filter(None, [offer]),
        ),
    )


def _offered(state: PipelineState, options: BuildOptions) -> tuple[str, ...]:
    """Offer to equalise where a format is to be computed in float16, of a model that is not."""
    asked = any(parse(text)[1] == "float16" for text in options.to)
    if not asked or options.equalize or state.precision.name != "float32":
        return ()
    model = state.model.model
    return tuple(filter(None, [equalised(model, observe(model, state.feeds), LARGEST * MARGIN)[1].offer()]))


def _convert(state: PipelineState, options: BuildOptions) -> Made:
    """Write the model in further formats; the ONNX model stays the main one."""
    made = _converted(state, options, _plain(options), None)
    detail = ", ".join(f"{one.name}, {one.bytes} bytes" for one in made)
    notes = (*_offered(state, options), *(note for one in made for note in one.notes))
    return _made("convert", state, state.model, detail=detail, converted=tuple(made), warnings=notes)


def _convert_int8(state: PipelineState, options: BuildOptions) -> Made:
    """Write the int8 model in further formats."""
    account = state.account(Int8Model)
    assert account is not None
    made = _converted(state, options, _quantised(options), account)
    detail = ", ".join(f"{one.name}, {one.bytes} bytes" for one in made)
    notes = tuple(note for one in made for note in one.notes)
    return _made("convert int8", state, state.model, detail=detail, converted=tuple(made), warnings=notes)


def _plain(options: BuildOptions) -> list[str]:
    return [text for text in dict.fromkeys(options.to) if not is_int8(text)]


def _quantised(options: BuildOptions) -> list[str]:
    return [text for text in dict.fromkeys(options.to) if is_int8(text)]


def _no_int8(state: PipelineState) -> str:
    return "" if state.account(Int8Model) else "expected an int8 model, got none; add --int8 --data DIR"


def _converted(
    state: PipelineState, options: BuildOptions, asked: Sequence[str], account: Int8Model | None
) -> list[Converted]:
    made = []
    program = None if state.subject.graph is not None else functools.cache(lambda: _program(state, options))
    source = Source(
        state.model,
        state.feeds[0],
        program,
        state.precision.name,
        int8=account.quantised.model if account else None,
        made={one.name: one for one in state.converted},
    )
    for text in asked:
        name, precision = parse(text)
        converter = CONVERTERS[name]
        if why := converter.missing():
            raise ExportError(f"--to {text}: {why}")
        with activity.doing(f"converting the model to {text}", who=name, model=""):
            one = converter.convert(replace(source, asked=precision))
        made.append(one if account is None else replace(one, snr=account.snr))
    return made


def _cannot_quantise(state: PipelineState) -> str:
    if state.int8 is None:
        return "expected inputs to calibrate on, got none; give a folder with --data"
    if state.made and (now := state.precision).snr is not None:
        return f"expected a float32 model, got one that computes in {now.name}; leave out --fp16"
    return _nothing_made(state)


def _quantise(state: PipelineState, options: BuildOptions) -> Made:
    """Write a second model, in int8; the float32 model stays the main one."""
    assert state.int8 is not None
    assert options.int8 is not None
    with activity.doing("making the model int8"):
        source = at_least(state.model, INT8_OPSET)
        account = int8.made(source, state.int8, options.int8)
    found = account.quantised
    contract.check(found.model, source.contract)
    converted = Converted(
        int8.NAME,
        "onnx",
        {int8.FILE: int8.serialised(found.model)},
        f"attn-export {__version__}",
        precision="int8",
        notes=found.notes,
        snr=account.snr,
    )
    older = f"the int8 model is in opset {INT8_OPSET}: scales of channels need it" if source is not state.model else ""
    notes = (*found.notes, *account.clipped, *filter(None, [older]))
    return _made(
        "quantise", state, state.model, account, detail=found.summary(), converted=(converted,), warnings=notes
    )


def _program(state: PipelineState, options: BuildOptions) -> TorchProgram:
    contract = state.model.contract
    return torch_program(
        state.subject,
        [port.name for port in contract.outputs],
        contract.dims,
        fuse=options.fuse,
        fuse_cost=options.fuse_cost,
        keep_branches=options.keep_branches,
    )


def _all_there(_state: PipelineState, made: Made) -> None:
    for one in made.converted:
        if not one.files or not all(one.files.values()):
            raise ContractError(f"the converter of {one.name} gave an empty file; report that to {one.produced_by}")


EXPORT = Stage("export", "exported", lambda _: True, lambda _: "", _export, _draws_nothing)
FUSE = Stage("fuse", "fused", lambda options: options.fuse, _nothing_made, _fuse, _is_certified)
SIMPLIFY = Stage(
    "simplify", "simplified", lambda options: options.simplify, _nothing_made, _simplify, _asserted, optional=True
)
EQUALIZE = Stage("equalize", "equalized", lambda options: options.equalize, _is_float32, _equalize, _keeps_contract)
PRECISION = Stage("precision", "float16", lambda options: options.fp16, _is_float32, _lower_precision, _keeps_contract)
CONVERT = Stage("convert", "converted", lambda options: bool(_plain(options)), _nothing_made, _convert, _all_there)
QUANTISE = Stage(
    "quantise", "quantised", lambda options: options.int8 is not None, _cannot_quantise, _quantise, _all_there
)

CONVERT_INT8 = Stage(
    "convert int8", "converted int8", lambda options: bool(_quantised(options)), _no_int8, _convert_int8, _all_there
)

STAGES = (EXPORT, FUSE, SIMPLIFY, EQUALIZE, PRECISION, CONVERT, QUANTISE, CONVERT_INT8)
