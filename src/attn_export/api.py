"""The public functions: the command line's work for Python, without printing, exiting or global state.

Each calls one function of the folders below, imports it when it is called, and raises the errors of ``errors``: a proof
that fails is a ``GateError`` whose figures are its attributes, never a return value that can be overlooked.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union, overload

from attn_export.errors import ExportError, GateError, InconclusiveError, ParityError, UsageError

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from attn_export.bundle import Bundle, Case, Selection
    from attn_export.deploy_tests.latency.comparison import LatencyComparison
    from attn_export.deploy_tests.measurement import Measurement, MeasureOptions
    from attn_export.deploy_tests.parity.compare import Parity
    from attn_export.export.subject import Subject
    from attn_export.pipeline.divergence.divergence import Divergence
    from attn_export.pipeline.options import Mutants
    from attn_export.pipeline.outcome import DeployResult
    from attn_export.pipeline.progress import Progress
    from attn_export.reparam.result import Fusion
    from attn_export.types import Dim

T = TypeVar("T")
PathLike = Union[str, "os.PathLike[str]"]
#: What can be deployed: a module, a catalogue name, ``package.module:name``, ``file.py:name``, or an ONNX file.
Model = Union["nn.Module", "onnx.ModelProto", str, "os.PathLike[str]"]


def load(model: Model, args: Sequence[Any] = (), **source: Any) -> Subject:
    """Make a subject: what goes down the pipeline, with its inputs, sizes and dynamic dimensions.

    Args:
        model: a module in evaluation mode, or a text as the command line takes it.
        args: of a module, what ``forward`` takes, in its order: tensors, or lists, tuples and dicts of them; the sizes
            at which it is traced.
        source: of a module ``dynamic``, ``name``, ``randomize_weights``, ``outputs`` and ``seed``
            (``export.in_memory``); of a text the fields of ``export.source.SourceOptions``, such as ``preset``,
            ``inputs``, ``weights``, ``dynamic``.

    Raises:
        UsageError, SubjectError, CheckpointError: it is none, cannot be loaded, or the arguments do not fit.
    """
    if isinstance(model, (str, os.PathLike)):
        from attn_export.export import sources
        from attn_export.export.source import SourceOptions

        if args:
            raise UsageError(f"{os.fspath(model)}: args are for a module; give inputs=('x:1x3x224x224',) for a text")
        return sources.load(SourceOptions(text=os.fspath(model), **source))
    from torch import nn

    from attn_export.export.in_memory import from_module

    if not isinstance(model, nn.Module):
        raise UsageError(f"expected a torch.nn.Module or a name, got a {type(model).__name__}")
    return from_module(model, args, **source)


def deploy(
    model: Model,
    args: Sequence[Any] = (),
    *,
    output: PathLike | None = None,
    dynamic: Mapping[str, Mapping[int, Dim]] | str | None = None,
    fuse: bool = False,
    fp16: bool = False,
    simplify: bool = True,
    bench: bool = True,
    mutants: Mutants = "fast",
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
    source: Mapping[str, Any] | None = None,
    **more: Any,
) -> DeployResult:
    """Run the main job: fuse, export, simplify, prove and measure a model, and write its bundle.

    Args:
        model: a module in evaluation mode, a catalogue name, ``package.module:name``, or an ONNX file.
        args: of a module, what ``forward`` takes; one of the cases of the proof.
        output: the bundle's folder; by default one of the subject's name.
        dynamic: of a module, by input and axis the dimension that may vary; of a text, their names.
        fuse: collapse training-time branches.
        fp16: compute in float16, where that is safe.
        simplify: run the simplifier.
        bench: measure latency.
        mutants: how many faults are injected to check the check.
        seed: of inputs and weights that are drawn.
        threads: of the runtime.
        progress: who wants to see the stages as they end; nothing is printed by default.
        source: further arguments of ``load``.
        more: further fields of ``pipeline.options.BuildOptions`` and ``DeployOptions``, such as ``opset``,
            ``keep_branches`` or ``data``.

    Raises:
        GateError: a proof failed; nothing was written. Its ``parity`` and ``stage`` say which.
        InconclusiveError: the check would let zeros or the input pass.
        ConversionError, BackendError, LoadError, WriteError, UsageError: as the stages.
    """
    subject = load(model, args, seed=seed, **({"dynamic": dynamic} if dynamic is not None else {}), **(source or {}))
    from dataclasses import fields

    from attn_export.pipeline import deploy as pipeline
    from attn_export.pipeline.options import BuildOptions, DeployOptions

    of_build = {field.name for field in fields(BuildOptions)}
    build = {name: value for name, value in more.items() if name in of_build}
    rest = {name: value for name, value in more.items() if name not in of_build}
    if unknown := sorted(set(rest) - {field.name for field in fields(DeployOptions)}):
        raise UsageError(f"deploy has no option {unknown[0]!r}; BuildOptions and DeployOptions list them")
    options = DeployOptions(
        output=None if output is None else Path(output),
        build=BuildOptions(fuse=fuse, fp16=fp16, simplify=simplify, **build),
        bench=bench,
        mutants=mutants,
        seed=seed,
        threads=threads,
        **rest,
    )
    examples = {"your example": _example(subject, args)} if args else {}
    return pipeline.deploy(subject, options, progress, examples=examples)


@overload
def fuse(model: nn.Module, args: Sequence[Tensor], **options: Any) -> Fusion[nn.Module]: ...
@overload
def fuse(model: onnx.ModelProto | str | os.PathLike[str], **options: Any) -> Fusion[onnx.ModelProto]: ...
def fuse(model: Any, args: Sequence[Tensor] = (), **options: Any) -> Fusion[Any]:
    """Collapse the linear regions of a module, an ONNX model or an ONNX file, with the account of what was done.

    Args:
        model: a module in evaluation mode, a model, or the path of a file; never changed.
        args: of a module, what ``forward`` takes.
        options: those of ``reparam.fuse_module`` or ``reparam.fuse_graph``.

    Returns:
        ``model``: fused, an ``nn.Module`` or an ONNX model; ``sites``, ``refusals`` and ``certificate``.

    Raises:
        FusionError: it must not be fused as it is.
        GateError: the certificate does not hold.
    """
    from attn_export import reparam

    made: Fusion[Any]
    if isinstance(model, (str, os.PathLike)):
        from attn_export.export.onnx.read import read_model

        made = reparam.fuse_graph(read_model(Path(model)), **options)
    elif hasattr(model, "graph") and hasattr(model, "opset_import"):
        made = reparam.fuse_graph(model, **options)
        if made.model is model:  # nothing was fused: what the caller does with it must not change the original
            made = replace(made, model=copy.deepcopy(model))
    else:
        made = reparam.fuse_module(model, tuple(args), **options)
    if not made.certificate.ok:
        raise GateError(f"fusing changed the model: worst error {made.certificate.worst:.3g} in float64")
    return made


def insert(
    model: nn.Module,
    args: Sequence[Any],
    mechanism: str,
    *,
    after: str | Sequence[str],
    preset: str | None = None,
    seed: int = 0,
    **arguments: Any,
) -> nn.Module:
    """Put a mechanism of the catalogue behind layers of a network: a copy, to be trained.

    The parameters of ``model`` keep their names and values; what is new stands beside them as ``layer.mechanism.…``.

    Args:
        model: in training or evaluation mode, which the copy has too; never changed.
        args: what ``forward`` takes; one run on them tells what shape each layer gives.
        mechanism: a catalogue name, such as ``eca``.
        after: a pattern of names of ``named_modules``, such as ``layer*.conv2``, or several; ``*`` stands for dots too.
        preset: of the mechanism; what depends on the shape follows the layer.
        seed: of the mechanism's initial weights.
        arguments: of the mechanism's constructor, over those of the preset.

    Raises:
        UsageError: nothing matches, or the mechanism does not fit there, or would not keep the shape.
        UnknownNameError: there is no such mechanism or preset.
        SubjectError: the network does not run on ``args``.
    """
    from attn_export.export.binding import tensors
    from attn_export.export.in_memory import names
    from attn_export.export.insertion import insert as put

    patterns = [after] if isinstance(after, str) else list(after)
    given = tensors(names(model, len(args)), args)
    return put(model, given, mechanism, patterns, preset=preset, arguments=arguments, seed=seed).module


def read_bundle(path: PathLike) -> Bundle:
    """Read a bundle whole: every file's hash, the manifest, the cases.

    Raises:
        BundleError: it is not whole, or not of this schema.
    """
    from attn_export import bundle

    return bundle.read(Path(path))


def verify(
    path: PathLike, backend: str | None = None, *, check: bool = True, threads: int = 1, **limits: Any
) -> Parity:
    """Prove a bundle again on this machine. Needs neither torch nor onnx.

    Args:
        path: the bundle's folder.
        backend: what runs it; the one of the base install by default.
        check: raise where parity fails; else look at ``ok`` yourself.
        threads: of the runtime.
        limits: ``atol``, ``rtol``, ``tolerance`` (k) or ``snr`` (dB) instead of the bundle's.

    Raises:
        ParityError: parity fails, and ``check`` is true; its ``parity`` has the figures.
        BackendMissingError: the backend is not available here.
        BundleError, BackendError, InconclusiveError: as ``deploy_tests.parity.verify``.
    """
    from attn_export.deploy_tests.backends import DEFAULT
    from attn_export.deploy_tests.parity import verify as proofs

    parity = proofs.verify(read_bundle(path), backend or DEFAULT, threads=threads, **limits)
    return _checked(parity, check=check)


@overload
def bench(path: PathLike, *, backend: str | None = None, options: MeasureOptions | None = None) -> Measurement: ...
@overload
def bench(
    path: PathLike, other: PathLike, *, backend: str | None = None, processes: int = 5, threads: int = 1
) -> LatencyComparison: ...
def bench(
    path: PathLike,
    other: PathLike | None = None,
    *,
    backend: str | None = None,
    options: MeasureOptions | None = None,
    processes: int = 5,
    threads: int = 1,
) -> Measurement | LatencyComparison:
    """Measure one bundle; or of two the interleaved ratio of their times, with its control.

    Args:
        path: the bundle that is measured; of two, the candidate.
        other: the baseline.
        backend: what runs them; the one of the base install by default.
        options: what to measure of one bundle (``deploy_tests.measurement.MeasureOptions``).
        processes: of a comparison, the least number of process pairs.
        threads: of a comparison.

    Raises:
        InconclusiveError: this machine cannot compare now; its ``comparison`` says why.
        BundleError, BackendMissingError, BackendError: as ``verify``.
    """
    from attn_export import bundle
    from attn_export.deploy_tests.backends import DEFAULT
    from attn_export.deploy_tests.latency.comparison import Rules, compare_latency
    from attn_export.deploy_tests.measurement import measure_bundle

    whole, runtime = read_bundle(path), backend or DEFAULT
    if other is None:
        return measure_bundle(whole, runtime, options)
    comparison = compare_latency(
        whole.model,
        read_bundle(other).model,
        whole.path / bundle.CASES,
        backend=runtime,
        rules=Rules(processes=processes, threads=threads),
    )
    if comparison.void:
        text = f"no ratio is reported: the A/A run is not 1.0 ({comparison.control}); measure on a quieter machine"
        raise InconclusiveError(text, comparison=comparison)
    return comparison


def diff(one: PathLike, other: str | None = None, *, between: tuple[str, str] | None = None) -> Divergence | None:
    """Find where two runs first diverge: a bundle or ONNX file, and a backend, another bundle or another file.

    Args:
        one: a bundle, an ONNX file, or a subject as the command line takes it.
        other: a backend (the one of the base install by default), another bundle, or an ONNX file.
        between: two of ``original``, ``exported``, ``fused``, ``simplified``, ``float16``, ``model``, each perhaps on
            a backend, as ``diff --between`` takes them.

    Returns:
        The first tensor that differs by more than correct runs do, with its node and source line; None where none is.

    Raises:
        GateError: only one of them has some input or output, or they stand in another order; what both have is equal.
        UsageError, LoadError, ConversionError, BackendError: one of them is nothing, or cannot be made or run.
    """
    from attn_export import bundle
    from attn_export.pipeline.divergence.find import find
    from attn_export.pipeline.divergence.variants import VariantFactory

    path = Path(one)
    what = bundle.read(path) if path.is_dir() else load(one)
    found = find(VariantFactory(what), other, between)
    if found.divergence is None and found.interface:
        raise GateError(f"{' and '.join(found.names)} differ: {'; '.join(found.interface)}")
    return found.divergence


def assert_parity(
    model: nn.Module,
    deployed: PathLike | onnx.ModelProto,
    args: Sequence[Any],
    *,
    dynamic: Mapping[str, Mapping[int, Dim]] | None = None,
    backend: str | None = None,
    threads: int = 1,
    snr: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
) -> Parity:
    """Assert that an ONNX model computes what a module does, by a tolerance derived from the module itself.

    The reference is the module in float64; what is allowed is what PyTorch's own float32 evaluations differ from it by,
    four times. The cases are ``args`` and inputs drawn as the main job draws them.

    Args:
        model: in evaluation mode; never changed.
        deployed: an ONNX file or model, with the module's inputs in its order.
        args: what ``forward`` takes.
        dynamic: by input and axis the dimension that may vary: then other sizes are tried, too.
        backend: what runs it; the one of the base install by default.
        threads: of the runtime.
        snr: for a precision below float32, the least signal-to-noise ratio in dB, instead of the derived tolerance.
        atol: your own absolute tolerance, besides.
        rtol: your own relative tolerance, besides.

    Raises:
        ParityError: they differ; an ``AssertionError``, whose ``parity`` has the figures.
        UsageError: their inputs or outputs do not fit.
        SubjectError, BackendError: one of them does not run.
    """
    import tempfile

    from attn_export.deploy_tests.backend import Options
    from attn_export.deploy_tests.backends import BACKENDS, DEFAULT, opened
    from attn_export.deploy_tests.parity.compare import prove
    from attn_export.export.onnx import contract
    from attn_export.export.onnx.read import read_model
    from attn_export.export.onnx.save import save

    subject = load(model, args, **({"dynamic": dynamic} if dynamic else {}))
    runtime = backend or DEFAULT
    with ExitStack() as stack:
        if isinstance(deployed, (str, os.PathLike)):
            path, graph = Path(deployed), read_model(Path(deployed))
        else:
            path, graph = Path(stack.enter_context(tempfile.TemporaryDirectory()), "model.onnx"), deployed
            save(graph, path)
        weights = {tensor.name for tensor in graph.graph.initializer}
        takes = [value.name for value in graph.graph.input if value.name not in weights]
        gives = [contract.port(value) for value in graph.graph.output]
        names = [spec.name for spec in gives]
        cases = _renamed(_cases(subject, args, _selections(subject, args, graph, takes, names)), takes, names)
        run = stack.enter_context(opened(runtime, path, Options(threads=threads)))
        version = BACKENDS[runtime].version()
        parity = prove(run, cases, gives, backend=version, snr=snr, atol=atol, rtol=rtol)
    return _checked(parity, check=True)


def _example(subject: Subject, args: Sequence[Any]) -> dict[str, Tensor]:
    from attn_export.export.arrays import array, tensor
    from attn_export.export.binding import leaves

    pairs = zip(subject.inputs, leaves(args), strict=True)
    return {item.name: tensor(array(value), item.dtype) for item, value in pairs}


def _cases(subject: Subject, args: Sequence[Any], chosen: tuple[Selection, ...]) -> tuple[Case, ...]:
    from attn_export.bundle import rows
    from attn_export.export import reference

    example = [("your example", _example(subject, args))]
    found = (*reference.on(subject, example, selections=chosen), *reference.cases(subject, selections=chosen))
    return rows.with_order(found)


def _selections(
    subject: Subject, args: Sequence[Any], graph: onnx.ModelProto, takes: Sequence[str], gives: Sequence[str]
) -> tuple[Selection, ...]:
    """Find the outputs whose rows an operator of the graph chose, under the names that the module's have."""
    from attn_export.export.arrays import arrays
    from attn_export.export.copies import copied
    from attn_export.export.graph import selections
    from attn_export.export.outputs import evaluate

    example = _example(subject, args)
    try:
        found = selections.found(graph, arrays(dict(zip(takes, example.values(), strict=False))))
    except ExportError:  # operators that only its runtime knows
        return ()
    if not found:
        return ()
    own = dict(zip(gives, evaluate(copied(subject.module), example), strict=False))
    return tuple(replace(one, rows={own[n]: axis for n, axis in one.rows.items() if n in own}) for one in found)


def _renamed(cases: Sequence[Case], takes: Sequence[str], gives: Sequence[str]) -> list[Case]:
    """Give the cases under the names that a graph has, by position.

    Raises:
        UsageError: the graph has another number of them.
    """
    from attn_export.bundle import Case

    first = cases[0]
    names = dict(zip(first.reference, gives, strict=False))
    for kind, ours, theirs in (("inputs", first.inputs, takes), ("outputs", first.reference, gives)):
        if len(ours) != len(theirs):
            raise UsageError(f"the module has {len(ours)} {kind}, the model {len(theirs)}: {', '.join(theirs)}")
    return [
        Case(
            case.name,
            _by_position(case.inputs, takes),
            _by_position(case.reference, gives),
            _by_position(case.float32_error, gives),
            selections=tuple(
                replace(one, rows=_by_name(one.rows, names), ordered=_by_name(one.ordered, names))
                for one in case.selections
            ),
        )
        for case in cases
    ]


def _by_name(values: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    return {names[name]: value for name, value in values.items()}


def _by_position(values: Mapping[str, T], names: Sequence[str]) -> dict[str, T]:
    return dict(zip(names, values.values(), strict=True))


def _checked(parity: Parity, *, check: bool) -> Parity:
    if check and not parity.ok:
        raise ParityError(parity.summary(), parity=parity)
    return parity
