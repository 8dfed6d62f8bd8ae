"""What ``report.json`` says, with a type and a limit for each figure; ``schema/report.schema.json`` is made of it.

Figures are checked for what they are, not for what they claim: verdicts are computed again where they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from attn_export.bundle import versions
from attn_export.bundle.format import SCHEMA_VERSION
from attn_export.errors import AttnExportError, BundleError
from attn_export.types import Count, Decibel, Size
from attn_export.untrusted import fields
from attn_export.untrusted.fields import Within

#: Times, and ratios of two: none is as long as the universe, and no two models are further apart than a million.
Time = Annotated[float, Within(0, 1e30)]
Ratio = Annotated[float, Within(1e-6, 1e6)]
Figure = Annotated[float, Within(-1e30, 1e30)]
Nanoseconds = Annotated[int, Within(0, 1e18)]
Positive = Annotated[int, Within(1)]


@dataclass(frozen=True)
class MeasuredRecord:
    """An estimate with its 95 % confidence interval; null where an end could not be bounded.

    Attributes:
        estimate: the figure.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    estimate: Figure | None
    low: Figure | None
    high: Figure | None


@dataclass(frozen=True)
class OutputComparisonRecord:
    """One output of one case against the float64 reference.

    Attributes:
        case: name of the case.
        output: name of the output.
        error: Euclidean norm of the difference to the reference; null where the values could not be compared.
        error_limit: largest error that passes for float32, which is normalized_limit times the allowed float32 error.
        normalized_error: the error divided by what float32 is allowed here; null where it is infinite.
        snr_db: signal-to-noise ratio against the reference; null where it is infinite.
        max_abs_error: largest absolute difference of one element.
        slice_normalized_error: the error of the worst slice divided by what float32 is allowed in it; null where that
            is infinite, and 0 where no slice is judged by itself.
        slice_limit: largest slice_normalized_error that passes.
        worst_slice: which slice that is; empty where there is none.
        failure: why the values were not even compared (shape, element type, NaN); empty otherwise.
        user_tolerance_failure: how far the output lies outside the user's own atol and rtol; empty otherwise.
        other_rules: by name, whether other tools' rules would pass this output; they decide nothing here.
        metrics: figures that those rules look at; null where one is infinite or not a number.
    """

    case: str
    output: str
    error: Size | None
    error_limit: Size | None
    normalized_error: Size | None
    snr_db: Decibel | None
    max_abs_error: Size | None
    slice_normalized_error: Size | None
    slice_limit: Size
    worst_slice: str = ""
    failure: str = ""
    user_tolerance_failure: str = ""
    other_rules: Mapping[str, bool] | None = None
    metrics: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class ImageRecord:
    """What one image keeps of what varies.

    Attributes:
        name: of the case, and where that is a batch which of its items.
        snr_db: what varies over the error, in dB; no more than 400 either way.
        agrees: whether the largest value stands where the reference's does; null where the output is no vector.
        failure: why the values were not even compared; empty otherwise.
    """

    name: str
    snr_db: Decibel
    agrees: bool | None = None
    failure: str = ""


@dataclass(frozen=True)
class CentredOutputRecord:
    """All images of one output.

    Attributes:
        output: its name.
        share: of the reference's energy that varies over the images.
        median_db: what half of the images reach.
        images: each of them.
    """

    output: str
    share: Annotated[float, Within(0, 1)]
    median_db: Decibel
    images: Annotated[tuple[ImageRecord, ...], Within(2)]


@dataclass(frozen=True)
class CentredRecord:
    """A model below float32 against what varies of a reference between images.

    Attributes:
        against: what the reference is.
        limit_db: least median that passes, of every output that decides; null where nothing is asked.
        ok: whether it passes.
        outputs: those that could be centred.
        left_out: what could not be, each with the reason.
    """

    against: str
    limit_db: Decibel | None
    ok: bool
    outputs: tuple[CentredOutputRecord, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParityRecord:
    """All comparisons, and the verdict that was made of them.

    Attributes:
        ok: whether every comparison passed.
        normalized_limit: largest normalized error that passes.
        comparisons: one for each case and output.
        snr_db_limit: least signal-to-noise ratio that passes; null for float32, which is held to normalized_limit.
        left_out: cases that the artifact cannot take, each with the reason.
        centred: of an int8 model, whose comparisons are with what its own graph means, what it keeps of what varies.
        varying: of a model in float16 or bfloat16, what it keeps of what varies; null of any other.
    """

    ok: bool
    normalized_limit: Annotated[float, Within(0, above=True)]
    comparisons: tuple[OutputComparisonRecord, ...]
    snr_db_limit: Decibel | None = None
    left_out: tuple[str, ...] = ()
    centred: tuple[CentredRecord, ...] = ()
    varying: CentredRecord | None = None


@dataclass(frozen=True)
class WallTimeRecord:
    """Percentiles of wall time, in milliseconds.

    Attributes:
        p50: median.
        p90: 90th percentile.
        p95: 95th percentile.
        p99: 99th percentile.
        p50_interval: 95 % confidence interval of the median, lower end first.
    """

    p50: Time
    p90: Time
    p95: Time
    p99: Time
    p50_interval: tuple[Time, Time]


@dataclass(frozen=True)
class CpuTimeRecord:
    """CPU time of the process, in milliseconds.

    Attributes:
        p50: median.
    """

    p50: Time


@dataclass(frozen=True)
class SamplesRecord:
    """Raw samples, in the order in which they were taken.

    Attributes:
        wall_ns: wall time of single runs, in nanoseconds.
        cpu_ns: CPU time of the same runs, in nanoseconds.
        every: each n-th sample was kept; the percentiles are of all of them.
    """

    wall_ns: Annotated[tuple[Nanoseconds, ...], Within(1)]
    cpu_ns: Annotated[tuple[Nanoseconds, ...], Within(1)]
    every: Positive = 1


@dataclass(frozen=True)
class LatencyRecord:
    """How long one run takes.

    Attributes:
        threads: intra-operator threads.
        cold_start_s: seconds that opening the model took.
        wall_ms: percentiles of wall time.
        cpu_ms: CPU time.
        samples: raw samples.
        runs: how many runs were measured.
    """

    threads: Positive
    cold_start_s: Time
    wall_ms: WallTimeRecord
    cpu_ms: CpuTimeRecord
    samples: SamplesRecord
    runs: Positive | None = None


@dataclass(frozen=True)
class RatioRecord:
    """A ratio of two times with its 95 % confidence interval.

    Attributes:
        estimate: the ratio.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    estimate: Ratio
    low: Annotated[float, Within(0, 1e300)]
    high: Annotated[float, Within(0, 1e300)]


@dataclass(frozen=True)
class LatencyComparisonRecord:
    """Interleaved A/B measurement of two models, with an A/A control.

    Attributes:
        candidate: what is asked about, such as ``fused``.
        baseline: what it is compared with, such as ``original``.
        ratio: time of the candidate over time of the baseline.
        control: the same ratio of each model against itself: 1 but for noise.
        clock: which clock the times are of.
        pairs: ratio and control of each process.
        verdict: what follows; ``void`` where the control is not 1.
        resolution: smallest relative difference that could have been shown.
    """

    candidate: str
    baseline: str
    ratio: RatioRecord
    control: RatioRecord
    clock: Literal["CPU time", "wall time", "wall time on pinned cores"]
    pairs: Annotated[tuple[tuple[Ratio, Ratio], ...], Within(2)]
    verdict: Literal["faster", "slower", "no difference shown", "void"]
    resolution: Size = 0.0


@dataclass(frozen=True)
class FootprintRecord:
    """What a model costs before its first answer, measured in a fresh process.

    Attributes:
        import_s: seconds to import the runtime.
        open_s: seconds to open the model.
        first_run_s: seconds of the first run.
        peak_bytes: largest resident memory of the process; null where the system does not say.
        runtime_bytes: the same before the model was opened.
        file_bytes: size of the model's files.
        cold_start_s: seconds from nothing loaded to the first answer.
        model_bytes: memory that the model added.
    """

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
    """What disturbed the measurement.

    Attributes:
        kind: which preflight check.
        found: what it found.
        remedy: what to do.
    """

    kind: str
    found: str
    remedy: str


@dataclass(frozen=True)
class BudgetRecord:
    """What the user allows, and what was measured.

    Attributes:
        text: the budget as it was typed.
        measured: what was measured, in ``unit``.
        limit: what is allowed, in ``unit``.
        unit: of both.
        verdict: ``passed`` where the whole interval lies within the limit, ``failed`` where all of it lies beyond.
    """

    text: str
    measured: MeasuredRecord
    limit: Figure
    unit: str
    verdict: Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True)
class SingleStreamRecord:
    """MLPerf's single-stream figure; no submission.

    Attributes:
        estimate_ms: early-stopping estimate of the percentile.
        percentile_ms: the percentile itself.
        queries: runs that it is made of.
        discarded: slowest runs beyond the estimate.
        percentile: which one, as a share.
        confidence: of the estimate, as a share.
        duration_s: seconds that all runs took.
        rule: which rule it follows.
        submission: always false: this is the statistic alone.
    """

    estimate_ms: Time
    percentile_ms: Time
    queries: Count
    discarded: Count
    percentile: Figure
    confidence: Figure
    duration_s: Time
    rule: str
    submission: Literal[False] = False


@dataclass(frozen=True)
class DriftRecord:
    """Median latency over a long run.

    Attributes:
        window_p50_ms: median of each window of equal length, in order.
        duration_s: seconds of the whole run.
        slope_ms_per_minute: robust slope of the medians.
        change: share by which the last quarter is slower than the first.
        steady: whether that is no more than a steady machine shows.
    """

    window_p50_ms: Annotated[tuple[Time, ...], Within(1)]
    duration_s: Time
    slope_ms_per_minute: Figure
    change: Figure
    steady: bool


@dataclass(frozen=True)
class PointRecord:
    """One setting of a sweep.

    Attributes:
        setting: number of threads, or batch size.
        wall_ms: percentiles of wall time.
        per_item_ms: median for one item of the batch.
        runs: how many runs were measured.
    """

    setting: Positive
    wall_ms: WallTimeRecord
    per_item_ms: Time
    runs: Count


@dataclass(frozen=True)
class SweepsRecord:
    """Latency over threads and batch sizes.

    Attributes:
        threads: one point for each number of threads.
        batches: one point for each batch size.
    """

    threads: tuple[PointRecord, ...] = ()
    batches: tuple[PointRecord, ...] = ()


@dataclass(frozen=True)
class KernelTimeRecord:
    """Time of one kernel.

    Attributes:
        name: of its last node, or the runtime's own name.
        op: operator.
        nodes: nodes of the graph that it computes; empty where it is the runtime's own.
        time_us: microseconds in one run.
        share: of the time of all kernels.
        flops: floating-point operations.
        bytes: bytes read and written.
        roofline_share: shortest possible time over measured time; null where its work is not known.
        limited_by: what the machine limits it by; empty where that is not known.
        module: module of the network that it belongs to.
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    time_us: Time
    share: Time
    flops: Count
    bytes: Count
    roofline_share: Figure | None
    limited_by: Literal["", "compute", "memory"]
    module: str


@dataclass(frozen=True)
class RooflineRecord:
    """What the machine reached.

    Attributes:
        flops_per_s: floating-point operations a second.
        bytes_per_s: bytes read and written a second.
        threads: threads that it was measured with.
    """

    flops_per_s: Time
    bytes_per_s: Time
    threads: Positive


@dataclass(frozen=True)
class ProfileRecord:
    """Where the time goes.

    Attributes:
        rows: kernels, the longest first.
        total_us: microseconds of all kernels in one run.
        runs: how many runs it is made of.
        peak: what the machine reached; null where that was not measured.
        mapped_share: share of the time that belongs to nodes of the graph.
        roofline_share: shortest possible time over measured time of the whole graph.
    """

    rows: tuple[KernelTimeRecord, ...]
    total_us: Time
    runs: Count
    peak: RooflineRecord | None
    mapped_share: Time
    roofline_share: Figure | None


@dataclass(frozen=True)
class LayerTimeRecord:
    """Time of one layer of an engine.

    Attributes:
        layer: the engine's name of it.
        nodes: nodes of the graph that it was made from.
        samples_ms: milliseconds of single runs.
    """

    layer: str
    nodes: tuple[str, ...]
    samples_ms: tuple[Time, ...]


@dataclass(frozen=True)
class EngineRecord:
    """What TensorRT's own clocks say of an engine, measured on a GPU.

    Attributes:
        level: of evidence: measured on a named GPU.
        gpu: name, driver, clocks, and the power mode where there is one.
        samples_ms: raw samples by kind of latency: ``gpu``, ``host`` and ``graph``.
        percentiles_ms: percentiles of them.
        graph_missing: why there is no CUDA graph; empty where there is one.
        plan: what the builder made.
        layers_ms: time of each layer.
    """

    level: Literal["E2"]
    gpu: Mapping[str, Any]
    samples_ms: Mapping[str, tuple[Time, ...]]
    percentiles_ms: Mapping[str, Mapping[str, Time]]
    graph_missing: str
    plan: Mapping[str, Any]
    layers_ms: tuple[LayerTimeRecord, ...]


@dataclass(frozen=True)
class ConditionsRecord:
    """The state of the machine around a run: clocks, governors, temperatures, throttling, as far as it says.

    Attributes:
        before: what it said before.
        after: what it said after.
    """

    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EnergyRecord:
    """Energy of one inference, of all that the sensor covers while the model runs.

    Attributes:
        source: which sensor: ``rapl``, ``ina3221`` or ``battery``.
        covers: which part of the machine it covers.
        joules: of one inference, idle draw included.
        idle_watts: what that part takes while nothing runs; null where it was not said.
        blocks_j: the figure of each block of runs; the interval is of these.
        inferences: how many ran.
        duration_s: seconds of all blocks.
    """

    source: str
    covers: str
    joules: MeasuredRecord
    idle_watts: Annotated[float, Within(0, 1e6)] | None
    blocks_j: Annotated[tuple[Annotated[float, Within(0, 1e9)], ...], Within(2)]
    inferences: Positive
    duration_s: Time


@dataclass(frozen=True)
class RunRecord:
    """One backend on one machine.

    Attributes:
        backend: its name, such as ``onnxruntime``.
        version: of the runtime, such as ``1.32.0``.
        device: what it ran on: ``cpu``, ``gpu``, or what the backend calls it.
        artifact: name of the artifact that ran; empty where it did not.
        missing: why the backend could not run here, and then nothing else is given; null where it ran.
        environment: processor and by what it is emulated, cores, clock policy, load and library versions.
        parity: outputs against the reference.
        latency: how long one run takes.
        comparison: against another model, interleaved.
        footprint: cold start, memory and file size.
        preflight: what disturbed the measurement.
        budgets: what the user allows, and what was measured.
        mlperf: MLPerf's single-stream figure.
        drift: median latency over a long run.
        sweeps: latency over threads and batch sizes.
        engine: of TensorRT: its own clocks, layers and GPU.
        profile: where the time goes.
        conditions: clocks, temperatures and throttling before and after.
        energy: what one inference takes, where the machine can tell.
    """

    backend: str
    version: str = ""
    device: str = ""
    artifact: str = ""
    missing: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    parity: ParityRecord | None = None
    latency: LatencyRecord | None = None
    comparison: LatencyComparisonRecord | None = None
    footprint: FootprintRecord | None = None
    preflight: tuple[WarnRecord, ...] = ()
    budgets: tuple[BudgetRecord, ...] = ()
    mlperf: SingleStreamRecord | None = None
    drift: DriftRecord | None = None
    sweeps: SweepsRecord = field(default_factory=SweepsRecord)
    engine: EngineRecord | None = None
    profile: ProfileRecord | None = None
    conditions: ConditionsRecord | None = None
    energy: EnergyRecord | None = None


@dataclass(frozen=True)
class EnginePlanRecord:
    """What a build made.

    Attributes:
        kernels: how many kernels.
        fused_attention: how many of them are fused attention.
        dtypes: how many layers give each element type.
        memory_bytes: memory by kind.
        layers: each layer with the nodes that it was made from.
    """

    kernels: Count
    fused_attention: Count
    dtypes: Mapping[str, Count]
    memory_bytes: Mapping[str, Count]
    layers: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class CpuNodeRecord:
    """A node that stays on the CPU.

    Attributes:
        node: its name in the graph that was compiled; empty where the compiler gives none.
        op: its operator, in the compiler's words.
        reason: why, where the compiler says so.
    """

    node: str
    op: str
    reason: str = ""


@dataclass(frozen=True)
class PlacementRecord:
    """Where the nodes of a graph would run.

    Attributes:
        nodes: how many there are, as the compiler counts them.
        accelerator: how many of them run on the accelerator.
        cpu: each that stays on the CPU.
        refusal: why the whole graph was refused a place on the accelerator; empty where it was not.
    """

    nodes: Count
    accelerator: Count
    cpu: tuple[CpuNodeRecord, ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class SimulatedRecord:
    """What the maker's simulator gave against the reference: of no one chip, and no latency.

    Attributes:
        label: always the same: this is none of the levels of evidence.
        cases: how many were simulated.
        snr_db: the least signal-to-noise ratio of an output; null where it is infinite, or nothing to compare.
        case: of which case.
        output: of which output.
        failure: why the values were not even compared; empty otherwise.
        centred: whether the signal is what varies between the cases alone.
    """

    label: Literal["simulated"]
    cases: Positive
    snr_db: Decibel | None
    case: str
    output: str
    failure: str = ""
    centred: bool = False


@dataclass(frozen=True)
class CompileEvidenceRecord:
    """The graph was built for a device without that device, and not run.

    Attributes:
        level: of evidence: built, not run.
        claim: what may be said: product, version, chip, and that it was not run.
        meaning: what the level says.
        executed: always false.
        product: which compiler.
        version: its version.
        sha256: of the graph and the weights beside it.
        sm: of NVIDIA's: compute capability that it was built for.
        plan: of NVIDIA's: what the build made.
        target: of others: what was asked for.
        chip: of others: the chip, as it was read back from what was built.
        read_back: what stands there, to the letter.
        precision: in which the accelerator computes.
        sizes: the shape that each input was fixed at for the build.
        placement: where the nodes would run.
        estimate: figures of the compiler's own model of the chip; measured nowhere.
        simulated: what the maker's simulator gave.
        build_s: seconds that the build took.
        flags: what else shapes the build.
        warnings: of the builder.
    """

    level: Literal["E1"]
    claim: str
    meaning: str
    executed: Literal[False]
    product: str
    version: str
    sha256: str
    sm: str = ""
    plan: EnginePlanRecord | None = None
    target: str = ""
    chip: str = ""
    read_back: str = ""
    precision: str = ""
    sizes: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)
    placement: PlacementRecord | None = None
    estimate: Mapping[str, Any] = field(default_factory=dict)
    simulated: SimulatedRecord | None = None
    build_s: Time = 0.0
    flags: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportRecord:
    """Parity and latency as measured: one run for each backend and machine.

    Attributes:
        schema_version: version of this format.
        runs: what ran.
        compiled: what was built without a device.
    """

    schema_version: Annotated[int, Within(SCHEMA_VERSION, SCHEMA_VERSION)]
    runs: tuple[RunRecord, ...]
    compiled: tuple[CompileEvidenceRecord, ...] = ()


#: What a run holds that was measured by a clock.
TIMES = ("latency", "comparison", "footprint", "mlperf", "drift", "engine", "profile", "budgets", "energy")


def filled(plain: object, whose: str) -> dict[str, Any]:
    """Give a report as plain data, with whatever may be left out filled in: what shows it meets no missing key.

    Raises:
        BundleError: it is none.
    """
    return dict(fields.plain(check(plain, whose)))


def check(plain: object, whose: str, error: type[AttnExportError] = BundleError) -> ReportRecord:
    """Make the report that ``plain`` is.

    Raises:
        error: it is none.
    """
    if why := versions.refused(plain):
        raise error(f"{whose} {why}")
    try:
        record = fields.build(ReportRecord, plain)
    except ValueError as reason:
        raise error(f"{whose} is not a readable report: {reason}; make it again with attn-export") from reason
    for run in record.runs:
        if (what := run.environment.get("emulated")) and (held := [name for name in TIMES if getattr(run, name)]):
            raise error(
                f"{whose}: {', '.join(held)} of {run.backend} is from an emulated processor ({what}), whose times say"
                " nothing; measure on the device itself"
            )
    return record
