"""What ``report.json`` says, with a type and a limit for each figure; docs/report.schema.json is the same for others.

Figures are checked for what they are, not for what they claim: verdicts are computed again where they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from attn_export.bundle.manifest import Decibel, Size
from attn_export.errors import AttnExportError, BundleError
from attn_export.types import Count
from attn_export.untrusted import fields
from attn_export.untrusted.fields import Within

#: Times, and ratios of two: none is as long as the universe, and no two models are further apart than a million.
Time = Annotated[float, Within(0, 1e30)]
Ratio = Annotated[float, Within(1e-6, 1e6)]
Figure = Annotated[float, Within(-1e30, 1e30)]
Nanoseconds = Annotated[int, Within(0, 1e18)]


@dataclass(frozen=True)
class Span:
    """An estimate with its interval; None where an end could not be bounded."""

    estimate: Figure | None
    low: Figure | None
    high: Figure | None


@dataclass(frozen=True)
class OutputComparisonRecord:
    """One output of one case against the truth."""

    case: str
    output: str
    error: Size | None
    bound: Size | None
    k: Size | None
    snr: Decibel | None
    worst: Size | None
    fault: str = ""
    user_fault: str = ""
    classic: Mapping[str, bool] | None = None
    figures: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class ParityRecord:
    """All comparisons, and the verdict that was made of them."""

    ok: bool
    backend: str
    tolerance: Annotated[float, Within(0, above=True)]
    comparisons: tuple[OutputComparisonRecord, ...]
    snr: Decibel | None = None


@dataclass(frozen=True)
class Wall:
    """Percentiles of wall time in milliseconds."""

    p50: Time
    p90: Time
    p95: Time
    p99: Time
    p50_interval: tuple[Time, Time]


@dataclass(frozen=True)
class Cpu:
    """CPU time in milliseconds."""

    p50: Time


@dataclass(frozen=True)
class SamplesRecord:
    """Raw samples in nanoseconds, each n-th."""

    wall_ns: Annotated[tuple[Nanoseconds, ...], Within(1)]
    cpu_ns: Annotated[tuple[Nanoseconds, ...], Within(1)]
    every: Annotated[int, Within(1)] = 1


@dataclass(frozen=True)
class LatencyRecord:
    """How long one run takes."""

    threads: Annotated[int, Within(1)]
    cold_start_s: Time
    wall_ms: Wall
    cpu_ms: Cpu
    samples: SamplesRecord
    runs: Annotated[int, Within(1)] | None = None


@dataclass(frozen=True)
class IntervalRecord:
    """A ratio with its interval."""

    estimate: Ratio
    low: Annotated[float, Within(0, 1e300)]
    high: Annotated[float, Within(0, 1e300)]


@dataclass(frozen=True)
class LatencyComparisonRecord:
    """Fused against un-fused."""

    ratio: IntervalRecord
    control: IntervalRecord
    clock: Literal["CPU time", "wall time"]
    pairs: Annotated[tuple[tuple[Ratio, Ratio], ...], Within(2)]
    verdict: Literal["faster", "slower", "no difference shown", "void"]
    resolution: Size = 0.0


@dataclass(frozen=True)
class FootprintRecord:
    """What a model costs before its first answer."""

    import_s: Time
    open_s: Time
    first_run_s: Time
    peak_bytes: Count | None
    runtime_bytes: Count | None
    file_bytes: Count
    cold_start_s: Time
    model_bytes: int | None = None


@dataclass(frozen=True)
class WarnRecord:
    """What disturbed the measurement."""

    kind: str
    found: str
    remedy: str


@dataclass(frozen=True)
class BudgetRecord:
    """What the user allows, and what came."""

    text: str
    came: Span
    limit: Figure
    unit: str
    verdict: Literal["kept", "broken", "too close to say"]


@dataclass(frozen=True)
class SingleStreamRecord:
    """MLPerf's figure."""

    estimate_ms: Time
    plain_ms: Time
    queries: Count
    discarded: Count
    percentile: Figure
    confidence: Figure
    seconds: Time
    rule: str
    submission: Literal[False] = False


@dataclass(frozen=True)
class SustainRecord:
    """Median latency over a long run."""

    windows: Annotated[tuple[Time, ...], Within(1)]
    seconds: Time
    slope_per_minute: Figure
    change: Figure
    steady: bool


@dataclass(frozen=True)
class PointRecord:
    """One setting of a sweep."""

    setting: Annotated[int, Within(1)]
    wall_ms: Wall
    per_item_ms: Time
    runs: Count


@dataclass(frozen=True)
class SweepsRecord:
    """Latency over threads and batch sizes."""

    threads: tuple[PointRecord, ...] = ()
    batches: tuple[PointRecord, ...] = ()


@dataclass(frozen=True)
class KernelTimeRecord:
    """Time of one kernel."""

    name: str
    op: str
    nodes: tuple[str, ...]
    microseconds: Time
    share: Time
    flops: Count
    bytes: Count
    roofline: Figure | None
    bound: Literal["", "compute", "memory"]
    module: str


@dataclass(frozen=True)
class Peak:
    """What the machine reached."""

    flops: Time
    bandwidth: Time
    threads: Annotated[int, Within(1)]


@dataclass(frozen=True)
class ProfileRecord:
    """Where the time goes."""

    rows: tuple[KernelTimeRecord, ...]
    total: Time
    runs: Count
    peak: Peak | None
    mapped: Time
    roofline: Figure | None


@dataclass(frozen=True)
class LayerTimeRecord:
    """One layer of an engine."""

    layer: str
    nodes: tuple[str, ...]
    samples: tuple[Time, ...]


@dataclass(frozen=True)
class EngineRecord:
    """Of TensorRT: three latencies, layers, the GPU."""

    level: Literal["E2"]
    gpu: Mapping[str, Any]
    samples_ms: Mapping[str, tuple[Time, ...]]
    percentiles_ms: Mapping[str, Mapping[str, Time]]
    graph_missing: str
    plan: Mapping[str, Any]
    layers_ms: tuple[LayerTimeRecord, ...]


@dataclass(frozen=True)
class RunRecord:
    """One backend on one machine; ``missing``: why it could not run there, and then there is nothing else."""

    backend: str
    missing: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    parity: ParityRecord | None = None
    latency: LatencyRecord | None = None
    fused_against_unfused: LatencyComparisonRecord | None = None
    footprint: FootprintRecord | None = None
    preflight: tuple[WarnRecord, ...] = ()
    budgets: tuple[BudgetRecord, ...] = ()
    mlperf: SingleStreamRecord | None = None
    sustain: SustainRecord | None = None
    sweeps: SweepsRecord = field(default_factory=SweepsRecord)
    engine: EngineRecord | None = None
    profile: ProfileRecord | None = None


@dataclass(frozen=True)
class EnginePlanRecord:
    """What a build made."""

    kernels: Count
    fused_attention: Count
    dtypes: Mapping[str, Count]
    memory: Mapping[str, Count]
    layers: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Compiled:
    """Built without a GPU, and not run."""

    level: Literal["E1"]
    claim: str
    meaning: str
    executed: Literal[False]
    product: str
    version: str
    sm: str
    sha256: str
    plan: EnginePlanRecord
    seconds: Time = 0.0
    flags: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportRecord:
    """All of it."""

    runs: tuple[RunRecord, ...]
    compiled: tuple[Compiled, ...] = ()


def filled(plain: object, whose: str) -> dict[str, Any]:
    """A report as plain data, with whatever may be left out filled in: what shows it meets no missing key.

    Raises:
        BundleError: it is none.
    """
    return dict(fields.plain(check(plain, whose)))


def check(plain: object, whose: str, error: type[AttnExportError] = BundleError) -> ReportRecord:
    """The report that ``plain`` is.

    Raises:
        error: it is none.
    """
    try:
        return fields.build(ReportRecord, plain)
    except ValueError as reason:
        raise error(f"{whose} is no report that can be read: {reason}; make it again with attn-export") from reason
