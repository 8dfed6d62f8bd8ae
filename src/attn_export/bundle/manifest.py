"""What a manifest says, with a type and a limit for each figure: nothing of it is believed before it fits here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from attn_export import __version__
from attn_export.bundle.format import CASES, DTYPES, MANIFEST, MODEL, SCHEMA, SIGNATURE, SNR, TOLERANCE, Sha256
from attn_export.errors import BundleError
from attn_export.types import Count, Dim, TensorSpec, Text
from attn_export.untrusted import fields
from attn_export.untrusted.fields import Within

Size = Annotated[float, Within(0)]
Share = Annotated[float, Within(0)]
#: No honest ratio comes near; far enough from the ends of float64 to compute with.
Decibel = Annotated[float, Within(-7000, 7000)]


@dataclass(frozen=True)
class SubjectRecord:
    """What was exported."""

    name: Text
    weights: str = ""
    fused: bool = False
    precision: str = "float32"
    seed: Count = 0


@dataclass(frozen=True)
class ToleranceRecord:
    """What parity is held to."""

    k: Annotated[float, Within(0, TOLERANCE, above=True)]
    rule: str = ""
    snr: Annotated[float, Within(0, 7000, above=True)] | None = None


@dataclass(frozen=True)
class StageRecord:
    """What one stage gave."""

    name: str
    nodes: Count | None
    bytes: Count | None
    sha256: str | None
    worst_k: Size | None
    worst_snr: Decibel | None = None


@dataclass(frozen=True)
class LossRecord:
    """What rounding a site's weights loses."""

    int8_before: Size
    int8_after: Size
    fp16_before: Size
    fp16_after: Size


@dataclass(frozen=True)
class SiteRecord:
    """One place that was collapsed."""

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
    precision: LossRecord | None = None


@dataclass(frozen=True)
class RefusalRecord:
    """One place that was left alone."""

    name: str
    reason: str
    remedy: str = ""
    kind: str = ""


@dataclass(frozen=True)
class CertificateRecord:
    """How far the fused model is from the original in float64."""

    worst: Size
    bound: Size
    left_out: str = ""


@dataclass(frozen=True)
class FusionRecord:
    """What was collapsed, and what was not."""

    sites: tuple[SiteRecord, ...]
    certificate: CertificateRecord
    refusals: tuple[RefusalRecord, ...] = ()
    cost: str = ""
    keep: tuple[str, ...] = ()
    repair: bool = False


@dataclass(frozen=True)
class AuditFindingRecord:
    """One thing that is not what it was."""

    check: str
    where: str
    detail: str


@dataclass(frozen=True)
class AuditRecord:
    """What was compared bit by bit."""

    ok: bool
    checked: Count
    findings: tuple[AuditFindingRecord, ...]
    unaccounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerRecord:
    """A layer in float64 on the runtime's own input."""

    tensor: str
    op: str
    node: str
    channel: Count
    error: Size


@dataclass(frozen=True)
class LayersRecord:
    """The layers that were computed worst."""

    bound: Size
    checked: Count
    worst: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class SecondTier:
    """What k cannot see."""

    audits: Mapping[str, AuditRecord] = field(default_factory=dict)
    layers: LayersRecord | None = None


@dataclass(frozen=True)
class MutantResultRecord:
    """What became of one planted fault."""

    name: str
    kind: str
    verdict: Literal["caught", "survived", "equivalent", "refused"]
    k: Size | None
    below: Size | None = 0.0
    exact: Size | None = 0.0
    seen_by: str = ""
    why: str = ""


@dataclass(frozen=True)
class MutantsRecord:
    """How the check was checked."""

    possible: Count
    fates: tuple[MutantResultRecord, ...]
    mode: str = ""
    tried: Count = 0
    caught: Count = 0
    survived: Count = 0
    equivalent: Count = 0
    refused: Count = 0
    share: Annotated[float, Within(0, 1)] | None = None
    vacuous: tuple[str, ...] = ()
    seconds: Size = 0.0


@dataclass(frozen=True)
class NodeCostRecord:
    """What one node costs in principle."""

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
    """What the graph costs in principle."""

    case: str
    macs: Count
    flops: Count
    bytes: Count
    nodes: tuple[NodeCostRecord, ...]


@dataclass(frozen=True)
class PreprocessRecord:
    """How images were prepared; ``export.images`` has the same with its meaning."""

    size: tuple[Annotated[int, Within(1, 1 << 13)], Annotated[int, Within(1, 1 << 13)]]
    fit: Literal["stretch", "crop"] = "stretch"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    layout: Literal["nchw", "nhwc"] = "nchw"
    colour: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True)
class DataRecord:
    """The user's files that cases were made of."""

    files: Mapping[str, str]
    preprocess: PreprocessRecord | None = None
    left: Count = 0


@dataclass(frozen=True)
class Manifest:
    """All of it. What the device side cannot do without has no default."""

    schema: int
    files: Mapping[str, str]
    subject: SubjectRecord
    inputs: Annotated[tuple[TensorSpec, ...], Within(1)]
    outputs: Annotated[tuple[TensorSpec, ...], Within(1)]
    varying: tuple[Dim, ...]
    tolerance: ToleranceRecord
    cases: Annotated[tuple[str, ...], Within(1)]
    attn_export: str = ""
    opset: Count = 0
    ir_version: Count = 0
    stages: tuple[StageRecord, ...] = ()
    operators: Mapping[str, Count] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    fusion: FusionRecord | None = None
    second_tier: SecondTier | None = None
    mutants: MutantsRecord | None = None
    costs: CostsRecord | None = None
    #: By tensor: module, its class, file, line and code.
    origins: Mapping[str, tuple[str, str, str, Count, str]] | None = None
    data: DataRecord | None = None
    warnings: tuple[str, ...] = ()


def check(plain: object, whose: str) -> Manifest:
    """The manifest that ``plain`` is.

    Raises:
        BundleError: it is none, or of another schema, or claims what no honest one does.
    """
    schema = plain.get("schema") if isinstance(plain, Mapping) else None
    if type(schema) is not int or schema != SCHEMA:
        came = f"schema {schema}" if type(schema) is int else "no schema"
        raise BundleError(f"{whose} has {came}; attn-export {__version__} reads schema {SCHEMA}: export it again")
    try:
        made = fields.build(Manifest, plain)
        _files(made.files)
        _ports(made)
        _precision(made)
        _unique("case", made.cases)
        if made.data and made.data.preprocess and not all(made.data.preprocess.std):
            raise ValueError("data.preprocess.std: expected numbers that are not zero")
    except ValueError as error:
        raise BundleError(f"{whose}: {MANIFEST} is not what it must be: {error}; write the bundle again") from error
    return made


def _files(files: Mapping[str, str]) -> None:
    for name, wanted in files.items():
        if not plain_name(name):
            raise ValueError(f"files names {name[:80]!r}, which is no file inside the bundle")
        if not Sha256.fullmatch(wanted):
            raise ValueError(f"files.{name[:80]}: expected a sha256, got {wanted[:80]!r}")
    for name in (MODEL, CASES):
        if name not in files:
            raise ValueError(f"files does not account for {name}")


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


def _ports(made: Manifest) -> None:
    for kind, ports in (("inputs", made.inputs), ("outputs", made.outputs)):
        _unique(kind, (port.name for port in ports))
        for port in ports:
            if port.dtype not in DTYPES:
                raise ValueError(f"{kind}, {port.name!r}: the element type {port.dtype[:80]!r} is not known")
    _unique("varying", (dim.name for dim in made.varying))
    for dim in made.varying:
        if dim.max is not None and dim.max < dim.min:
            raise ValueError(f"varying, {dim.name!r}: it may be at most {dim.max} and at least {dim.min}")


def _precision(made: Manifest) -> None:
    """A class of its own for each precision but those that only the user can judge."""
    precision, snr = made.subject.precision, made.tolerance.snr
    if precision == "float32":
        if snr is not None:
            raise ValueError("tolerance.snr: float32 is held to k alone")
        return
    if snr is None:
        raise ValueError(f"tolerance.snr: is missing, and {precision[:80]} is held to it")
    if snr < SNR.get(precision, 0.0):
        raise ValueError(f"tolerance.snr: {precision} is held to {SNR[precision]:g} dB at least, got {snr:g}")


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}: the name {name[:80]!r} stands twice")
        seen.add(name)
