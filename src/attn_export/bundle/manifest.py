"""What a manifest says, with a type and a limit for each figure: nothing of it is believed before it fits here.

``schema/manifest.schema.json`` is made of these classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from attn_export.bundle import versions
from attn_export.bundle.format import (
    CASES,
    DTYPES,
    KINDS,
    MANIFEST,
    PAGE,
    REPORT,
    SCHEMA_VERSION,
    SIGNATURE,
    SNR,
    TOLERANCE,
    Sha256,
)
from attn_export.bundle.quantisation import QuantisationRecord
from attn_export.errors import BundleError
from attn_export.types import Count, Decibel, Dim, Size, TensorSpec, Text
from attn_export.untrusted import fields
from attn_export.untrusted.fields import Within

#: Names that go into commands and file names as they are.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class SubjectRecord:
    """What was exported.

    Attributes:
        name: catalogue entry, module or file.
        weights: where they are from.
        fused: whether it went through the fuser.
        seed: of whatever was random.
        outputs: where outputs were chosen, by the name of each the name that it had.
    """

    name: Text
    weights: str = ""
    fused: bool = False
    seed: Count = 0
    outputs: Mapping[str, Text] = field(default_factory=dict)


@dataclass(frozen=True)
class ToleranceRecord:
    """What the parity of an artifact is held to.

    Attributes:
        normalized_limit: largest normalized error that passes.
        snr_db_limit: least signal-to-noise ratio that passes, for precisions below float32; null for float32.
        rule: the same as a formula.
    """

    normalized_limit: Annotated[float, Within(0, TOLERANCE, above=True)]
    snr_db_limit: Annotated[float, Within(0, 7000, above=True)] | None = None
    rule: str = ""


@dataclass(frozen=True)
class ArtifactRecord:
    """One model of the bundle, in a form that some runtimes take.

    Attributes:
        name: its name in this bundle; no two have the same.
        kind: its format: ``onnx``, ``tflite``, ``pte``, ``ncnn``, ``mnn``, ``openvino``, or one that a backend knows.
        files: names of its files, each of which is in ``files`` of the manifest; a runtime opens the first.
        tolerance: what its parity is held to.
        precision: element type that it computes in.
        target: device that it was made for; empty where it is for any.
        produced_by: what wrote it, with its version.
        narrowed_dims: dimensions that vary less in it than ``dynamic_dims`` say, in the range that it takes.
        checked: of a format that nothing ran where the bundle was made, what its files were held to in place of that.
        quantisation: how an int8 model was made from the user's data, and what it is held to; null for others.
        mutation: mutation testing of an int8 model's own checks; null where that was not done.
    """

    name: Text
    kind: Text
    files: Annotated[tuple[str, ...], Within(1)]
    tolerance: ToleranceRecord
    precision: str = "float32"
    target: str = ""
    produced_by: str = ""
    narrowed_dims: tuple[Dim, ...] = ()
    checked: str = ""
    quantisation: QuantisationRecord | None = None
    mutation: MutationRecord | None = None


@dataclass(frozen=True)
class StageRecord:
    """What one stage of the pipeline gave.

    Attributes:
        name: of the stage.
        nodes: of the graph after it.
        bytes: of the graph and its weights.
        sha256: of the ONNX file that was proven.
        normalized_error: worst over all cases and outputs; null where values could not be compared, and of int8.
        snr_db: worst signal-to-noise ratio, of int8 the median of what varies over the error; null where infinite.
    """

    name: str
    nodes: Count | None
    bytes: Count | None
    sha256: str | None
    normalized_error: Size | None
    snr_db: Decibel | None = None


@dataclass(frozen=True)
class PrecisionLossRecord:
    """Relative error that rounding a site's weights gives, worst output channel.

    Attributes:
        int8_before: INT8, branches rounded and then collapsed.
        int8_after: INT8, collapsed and then rounded.
        fp16_before: float16, branches rounded and then collapsed.
        fp16_after: float16, collapsed and then rounded.
    """

    int8_before: Size
    int8_after: Size
    fp16_before: Size
    fp16_after: Size


@dataclass(frozen=True)
class SiteRecord:
    """One place that was fused.

    Attributes:
        name: where it is.
        pattern: what was recognised.
        before: operators before, in execution order.
        after: operators after.
        macs_before: multiply-adds before, for one example input.
        macs_after: multiply-adds after.
        parameters_before: stored numbers before.
        parameters_after: stored numbers after.
        notes: what it relied on.
        structure: whether both agree in every bit under dyadic weights; null where that was not tried.
        error: worst relative error in float64 with the real weights.
        precision: what low precision loses before and after.
    """

    name: str
    pattern: str = ""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    macs_before: Count = 0
    macs_after: Count = 0
    parameters_before: Count = 0
    parameters_after: Count = 0
    notes: tuple[str, ...] = ()
    structure: bool | None = None
    error: Size | None = None
    precision: PrecisionLossRecord | None = None


@dataclass(frozen=True)
class NotFusedRecord:
    """One place that was not fused.

    Attributes:
        site: where it is.
        reason: condition that failed.
        remedy: what would make it legal or worth it.
        kind: ``not exact``, ``does not pay``, ``shared``, ``kept`` or ``rolled back``.
    """

    site: str
    reason: str
    remedy: str = ""
    kind: str = ""


@dataclass(frozen=True)
class CertificateRecord:
    """How far the fused model is from the original, both in float64.

    Attributes:
        worst_error: largest relative error of an element.
        error_limit: largest that passes.
        skipped_reason: why the whole graph was not run, and the sites alone were; empty where it was.
    """

    worst_error: Size
    error_limit: Size
    skipped_reason: str = ""


@dataclass(frozen=True)
class FusionRecord:
    """What was fused, and what was not.

    Attributes:
        sites: what was fused.
        certificate: proof in float64.
        not_fused: what was not, and why.
        cost: cost model that decided what is worth fusing.
        keep: branches that were to be kept.
        repair: whether border maps were allowed.
    """

    sites: tuple[SiteRecord, ...]
    certificate: CertificateRecord
    not_fused: tuple[NotFusedRecord, ...] = ()
    cost: str = ""
    keep: tuple[str, ...] = ()
    repair: bool = False


@dataclass(frozen=True)
class AuditFindingRecord:
    """One thing that is not what it was.

    Attributes:
        check: which audit.
        where: tensor or node.
        detail: how it differs.
    """

    check: str
    where: str
    detail: str


@dataclass(frozen=True)
class AuditRecord:
    """What was compared bit by bit.

    Attributes:
        ok: whether nothing differs.
        checked: how many constants or attributes were compared.
        findings: what differs.
        unmatched: what a stage computed or rewrote, so that there is no original to compare it with.
    """

    ok: bool
    checked: Count
    findings: tuple[AuditFindingRecord, ...]
    unmatched: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerErrorRecord:
    """A layer in float64 on the runtime's own input.

    Attributes:
        tensor: its output.
        op: its operator.
        node: its name.
        channel: its worst channel.
        error_ulp: error in roundings of the channel's natural size.
    """

    tensor: str
    op: str
    node: str
    channel: Count
    error_ulp: Size


@dataclass(frozen=True)
class LayerErrorsRecord:
    """The layers that were computed worst.

    Attributes:
        error_ulp_limit: what rounding explains.
        checked: how many layers were compared.
        worst: the worst of them, the worst first.
    """

    error_ulp_limit: Size
    checked: Count
    worst: tuple[LayerErrorRecord, ...]


@dataclass(frozen=True)
class AuditsRecord:
    """Static checks that need no tolerance: what the parity of outputs cannot see.

    Attributes:
        constants: constants against the module's, bit for bit.
        attributes: attributes of nodes against the stage before.
        outside_fused_sites: both, of what fusing left alone.
        layers: each layer by itself.
    """

    constants: AuditRecord | None = None
    attributes: AuditRecord | None = None
    outside_fused_sites: AuditRecord | None = None
    layers: LayerErrorsRecord | None = None


@dataclass(frozen=True)
class MutantRecord:
    """What became of one injected fault.

    Attributes:
        name: kind and place of the fault.
        kind: kind alone.
        verdict: killed by the gate; survived it; equivalent in float64; invalid: the runtime refused it.
        normalized_error: largest over the cases; null where values could not be compared.
        margin: how many times below its limit a survivor's error stays; null where it is infinite.
        float64_distance: a survivor's relative distance from the model in float64; null where that is not known.
        caught_by_audit: audit that notices a survivor; empty where none does.
        reason: how it was decided.
    """

    name: str
    kind: str
    verdict: Literal["killed", "survived", "equivalent", "invalid"]
    normalized_error: Size | None
    margin: Size | None = 0.0
    float64_distance: Size | None = 0.0
    caught_by_audit: str = ""
    reason: str = ""


@dataclass(frozen=True)
class MutationRecord:
    """Mutation testing of the parity check: faults injected into the graph, and whether the gate notices.

    Attributes:
        possible: how many faults can be injected.
        mutants: those that were.
        mode: ``fast`` or ``full``.
        tried: how many were injected.
        killed: how many the gate noticed.
        survived: how many it did not.
        equivalent: how many change nothing.
        invalid: how many the runtime refused.
        score: killed out of killed and survived; null where there is neither.
        vacuous: trivial faults that passed, so that the gate proves nothing.
        untried: kinds of faults for which no time was left.
        duration_s: seconds that all of it took.
    """

    possible: Count
    mutants: tuple[MutantRecord, ...]
    mode: str = ""
    tried: Count = 0
    killed: Count = 0
    survived: Count = 0
    equivalent: Count = 0
    invalid: Count = 0
    score: Annotated[float, Within(0, 1)] | None = None
    vacuous: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()
    duration_s: Size = 0.0


@dataclass(frozen=True)
class NodeCostRecord:
    """What one node costs in principle.

    Attributes:
        name: of the node.
        op: its operator.
        inputs: names of its inputs.
        outputs: names of its outputs.
        macs: multiply-adds.
        flops: floating-point operations.
        bytes: bytes read and written.
        module: module of the network that it belongs to.
        source: file and line that it is from.
        known: whether its operator's cost is known.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: Count
    flops: Count
    bytes: Count
    module: str = ""
    source: str = ""
    known: bool = True


@dataclass(frozen=True)
class CostsRecord:
    """What the graph costs in principle.

    Attributes:
        case: name of the case whose sizes were taken.
        macs: multiply-adds.
        flops: floating-point operations.
        bytes: bytes read and written.
        nodes: each node.
    """

    case: str
    macs: Count
    flops: Count
    bytes: Count
    nodes: tuple[NodeCostRecord, ...]


@dataclass(frozen=True)
class PreprocessRecord:
    """How images were prepared; ``deploy_tests.data.images`` has the same with its meaning.

    Attributes:
        size: height and width.
        fit: whether the image is stretched or cropped to it.
        mean: taken off each channel, after division by 255.
        std: that each channel is divided by.
        layout: order of the dimensions.
        colour: order of the channels.
    """

    size: tuple[Annotated[int, Within(1, 1 << 13)], Annotated[int, Within(1, 1 << 13)]]
    fit: Literal["stretch", "crop"] = "stretch"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    layout: Literal["nchw", "nhwc"] = "nchw"
    colour: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True)
class DataRecord:
    """The user's files that cases were made of.

    Attributes:
        files: sha256 by file name.
        preprocess: how images were prepared; null where they were arrays.
        skipped: how many files were not used, since there were enough.
    """

    files: Mapping[str, str]
    preprocess: PreprocessRecord | None = None
    skipped: Count = 0


@dataclass(frozen=True)
class SelectionRecord:
    """Outputs whose rows an operator chose and put in order, such as detections.

    A run's rows are compared with the rows of the reference that are nearest to them, over all these outputs at once.

    Attributes:
        node: the operator that chose them, and its name.
        rows: by output the axis that its rows lie along; the axes before it hold the items of a batch.
        ordered: by output the columns that are in order in every case, and have to be in a run: what comes behind
            the rows' axis, as one.
    """

    node: Text
    rows: Mapping[str, Count]
    ordered: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ManifestRecord:
    """What the bundle holds, how it was made, and what it is held to.

    What the device side cannot do without has no default.

    Attributes:
        schema_version: version of this format.
        files: sha256 by name of every file in the folder but the manifest and its signature.
        subject: what was exported.
        inputs: contract of the inputs.
        outputs: contract of the outputs.
        dynamic_dims: dimensions that may vary.
        artifacts: models that it holds, all proven on the same cases; the main job wrote the first.
        cases: names of the cases in ``cases.npz``, in order.
        original: file of the model before any stage changed it, ONNX; null where it was left out.
        attn_export: version of attn-export that wrote it.
        opset: ONNX opset of the first artifact.
        ir_version: ONNX IR version of the first artifact.
        stages: what each stage of the pipeline gave.
        operators: how often each operator is in the graph.
        environment: processor and by what it is emulated, cores, clock policy, load and library versions of the
            machine that wrote it.
        command: what was typed.
        fusion: what was fused, and what was not.
        audits: static checks.
        mutation: mutation testing of the parity check.
        costs: what the graph costs in principle.
        source_locations: by tensor: module, its class, file, line and code.
        data: the user's files that cases were made of.
        selections: outputs whose rows are compared wherever they stand.
        warnings: what was said while it was made.
    """

    schema_version: Annotated[int, Within(SCHEMA_VERSION, SCHEMA_VERSION)]
    files: Mapping[str, str]
    subject: SubjectRecord
    inputs: Annotated[tuple[TensorSpec, ...], Within(1)]
    outputs: Annotated[tuple[TensorSpec, ...], Within(1)]
    dynamic_dims: tuple[Dim, ...]
    artifacts: Annotated[tuple[ArtifactRecord, ...], Within(1)]
    cases: Annotated[tuple[str, ...], Within(1)]
    original: Text | None = None
    attn_export: str = ""
    opset: Count = 0
    ir_version: Count = 0
    stages: tuple[StageRecord, ...] = ()
    operators: Mapping[str, Count] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    fusion: FusionRecord | None = None
    audits: AuditsRecord | None = None
    mutation: MutationRecord | None = None
    costs: CostsRecord | None = None
    source_locations: Mapping[str, tuple[str, str, str, Count, str]] | None = None
    data: DataRecord | None = None
    selections: tuple[SelectionRecord, ...] = ()
    warnings: tuple[str, ...] = ()


def check(plain: object, whose: str) -> ManifestRecord:
    """Make the manifest that ``plain`` is.

    Raises:
        BundleError: it is none, or of another version, or claims what no honest one does.
    """
    if why := versions.refused(plain):
        raise BundleError(f"{whose} {why}")
    try:
        made = fields.build(ManifestRecord, plain)
        _files(made.files)
        _ports(made)
        _artifacts(made)
        _selections(made)
        _unique("case", made.cases)
        if made.original is not None and made.original not in made.files:
            raise ValueError(f"original: expected one of files, got {made.original!r}")
        if made.data and made.data.preprocess and not all(made.data.preprocess.std):
            raise ValueError("data.preprocess.std: expected numbers that are not zero")
    except ValueError as error:
        raise BundleError(f"{whose}: {MANIFEST} is not what it must be: {error}; write the bundle again") from error
    return made


def _files(files: Mapping[str, str]) -> None:
    for name, wanted in files.items():
        if not plain_name(name):
            raise ValueError(f"files names {name[:80]!r}, which is not a file inside the bundle")
        if not Sha256.fullmatch(wanted):
            raise ValueError(f"files.{name[:80]}: expected a sha256, got {wanted[:80]!r}")
    if CASES not in files:
        raise ValueError(f"files does not account for {CASES}")


def plain_name(name: str) -> bool:
    """Whether ``name`` is a file inside the folder, written in the one way there is, and may be listed."""
    path = PurePosixPath(name)
    parts = path.parts
    return (
        0 < len(parts) <= 8
        and name == path.as_posix()
        and not path.is_absolute()
        and ".." not in parts
        and not re.search(r"[\x00-\x1f\x7f\\]", name)
        and name not in (MANIFEST, SIGNATURE)
    )


def _ports(made: ManifestRecord) -> None:
    for kind, ports in (("inputs", made.inputs), ("outputs", made.outputs)):
        _unique(kind, (port.name for port in ports))
        for port in ports:
            if port.dtype not in DTYPES:
                raise ValueError(f"{kind}, {port.name!r}: the element type {port.dtype[:80]!r} is not known")
    _unique("dynamic_dims", (dim.name for dim in made.dynamic_dims))
    for dim in made.dynamic_dims:
        if dim.max is not None and dim.max < dim.min:
            raise ValueError(f"dynamic_dims, {dim.name!r}: it may be at most {dim.max} and at least {dim.min}")


def _selections(made: ManifestRecord) -> None:
    """Hold each selection to outputs that there are, none of them of two."""
    ranks = {port.name: len(port.shape) for port in made.outputs}
    _unique("outputs of selections", (name for one in made.selections for name in one.rows))
    for name, axis in ((name, axis) for one in made.selections for name, axis in one.rows.items()):
        if axis >= ranks.get(name, 0):
            raise ValueError(f"selections: expected an axis of an output, got axis {axis} of {name[:80]!r}")
    for one in made.selections:
        if strange := sorted(set(one.ordered) - set(one.rows)):
            raise ValueError(f"selections: expected columns of an output with rows, got {strange[0][:80]!r}")


def _artifacts(made: ManifestRecord) -> None:
    """Hold each artifact to what its kind and its precision ask for; no file is of two."""
    _unique("artifacts", (artifact.name for artifact in made.artifacts))
    _unique("files of artifacts", (name for artifact in made.artifacts for name in artifact.files))
    for artifact in made.artifacts:
        where = f"artifact {artifact.name[:80]!r}"
        for what, word in (("name", artifact.name), ("kind", artifact.kind)):
            if not _WORD.fullmatch(word):
                raise ValueError(f"{where}: expected a {what} of letters, digits, '.', '_' and '-', got {word[:80]!r}")
        for name in artifact.files:
            if name not in made.files or name in (CASES, REPORT, PAGE):
                raise ValueError(f"{where}: {name[:80]!r} is not among the bundle's files that may be a model's")
        suffixes = KINDS.get(artifact.kind, ())
        if any(not name.endswith(end) for name, end in zip(artifact.files, suffixes, strict=False)) or len(
            artifact.files
        ) < len(suffixes):
            wanted = " and ".join(f"a file {end}" for end in suffixes)
            raise ValueError(f"{where}: expected {wanted} for {artifact.kind}, got {', '.join(artifact.files)[:200]}")
        _precision(where, artifact.precision, artifact.tolerance.snr_db_limit)
        _narrowed(where, artifact.narrowed_dims, made.dynamic_dims)
        if artifact.quantisation is not None:
            _quantisation(where, artifact, artifact.quantisation, made)


def _quantisation(where: str, artifact: ArtifactRecord, own: QuantisationRecord, made: ManifestRecord) -> None:
    """Hold an int8 model to a limit, and to a meaning in a file of its own."""
    if artifact.precision == "float32":
        raise ValueError(f"{where}: quantisation: expected none of a float32 model")
    if own.limit_db is None and own.top1_drop is None:
        raise ValueError(f"{where}: quantisation: expected limit_db or top1_drop, got neither")
    taken = {CASES, *(name for other in made.artifacts for name in other.files)}
    if own.meaning not in made.files or own.meaning in taken or not own.meaning.endswith(".npz"):
        raise ValueError(f"{where}: quantisation.meaning: {own.meaning[:80]!r} is no file of its own that may be one")
    for hashes in (own.calibration, own.held_out):
        if wrong := [name for name, value in hashes.items() if not Sha256.fullmatch(value)]:
            raise ValueError(f"{where}: quantisation: expected a sha256 of {wrong[0][:80]!r}")


def _precision(where: str, precision: str, snr: float | None) -> None:
    """Hold each precision to a class of its own, but those that only the user can judge."""
    if precision == "float32":
        if snr is not None:
            raise ValueError(f"{where}: tolerance.snr_db_limit: float32 is held to normalized_limit alone")
        return
    if snr is None:
        raise ValueError(f"{where}: tolerance.snr_db_limit: is missing, and {precision[:80]} is held to it")
    if snr < SNR.get(precision, 0.0):
        raise ValueError(
            f"{where}: tolerance.snr_db_limit: {precision} is held to {SNR[precision]:g} dB at least, got {snr:g}"
        )


def _narrowed(where: str, dims: tuple[Dim, ...], free: tuple[Dim, ...]) -> None:
    """Let an artifact take less than the model does, and never more."""
    _unique(f"{where}: narrowed_dims", (dim.name for dim in dims))
    known = {dim.name: dim for dim in free}
    for dim in dims:
        wide = known.get(dim.name)
        if wide is None:
            raise ValueError(f"{where}: narrowed_dims: {dim.name[:80]!r} is none of dynamic_dims")
        most = dim.min if dim.max is None else dim.max
        if dim.min < wide.min or most < dim.min or (wide.max is not None and (dim.max is None or dim.max > wide.max)):
            raise ValueError(f"{where}: narrowed_dims: {dim.name[:80]!r} lies outside what the model takes")


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}: the name {name[:80]!r} stands twice")
        seen.add(name)
