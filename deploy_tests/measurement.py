"""Everything that was asked to be measured of one bundle on one backend, as one object of report.json."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from attn_export.bundle import Bundle
from attn_export.deploy_tests import backends, shapes
from attn_export.deploy_tests.backend import EngineFigures
from attn_export.deploy_tests.identity import identify
from attn_export.deploy_tests.latency import (
    budget,
    energy_use,
    footprint,
    mlperf,
    profile,
    roofline,
    statistics,
    sweeps,
)
from attn_export.deploy_tests.latency.measure import Latency, Protocol, bundle_latency
from attn_export.deploy_tests.machine import conditions, emulated, energy, environment, preflight
from attn_export.deploy_tests.open_bundle import alone, chosen, opened
from attn_export.errors import UsageError
from attn_export.types import JsonDict, ShapeRange, Summarised


@dataclass(frozen=True)
class MeasureOptions:
    """What to measure besides latency.

    Attributes:
        budgets: limits as typed, such as ``p90<=15ms``.
        sustain: seconds of the drift run; 0 for none.
        thread_counts: of the sweep; empty for none.
        batch_sizes: of the sweep; empty for none.
        artifact: the name of what to measure; the first that the backend takes where there is none.
        ranges: of shapes to prepare for, as typed (``shapes.parse``); those of the bundle's cases where not given.
    """

    threads: int = 1
    protocol: Protocol = field(default_factory=Protocol)
    budgets: tuple[str, ...] = ()
    mlperf: bool = False
    sustain: float = 0.0
    thread_counts: tuple[int, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    ranges: tuple[str, ...] = ()
    footprint: bool = True
    artifact: str | None = None
    profile: bool = False


@dataclass(frozen=True)
class Measurement(Summarised):
    """The latency, its findings against budgets, the warnings, and all of it as plain data for the report."""

    latency: Latency
    findings: tuple[budget.BudgetResult, ...]
    warnings: tuple[preflight.Warn, ...]
    plain: dict[str, Any]

    def summary(self) -> str:
        """Say the latency, and how many budgets were kept."""
        text = self.latency.summary()
        passed = sum(finding.verdict == "passed" for finding in self.findings)
        return f"{text}; {passed} of {len(self.findings)} budgets kept" if self.findings else text


def measure_bundle(
    bundle: Bundle,
    backend: str,
    options: MeasureOptions | None = None,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Measurement:
    """Look at the machine, then measure what is asked for, one after the other.

    Raises:
        UsageError: a budget cannot be read, or a sweep or profile is not possible; before anything is measured.
        BackendMissingError, BackendError: as ``open_bundle.opened``.
        InconclusiveError: the processor is emulated; or too few runs for MLPerf's figure.
    """
    emulated.refuse_to_measure()
    asked = options or MeasureOptions()
    artifact = chosen(bundle, backend, asked.artifact)
    bundle = alone(bundle, artifact)  # whatever is measured below is of this one
    limits = [budget.parse(text) for text in asked.budgets]
    if asked.profile and not backends.has_profiler(backend):
        raise UsageError(f"--profile: {backend} has no profiler; leave it out, or use another backend")
    for size in asked.batch_sizes:
        sweeps.resized(bundle, size)
    ranges = shapes.asked(bundle, asked.ranges, [backend])
    warnings, before = preflight.check(asked.threads), conditions.read()
    timed = bundle_latency(bundle, backend, threads=asked.threads, protocol=asked.protocol, ranges=ranges)
    progress("latency")
    weigh = asked.footprint or any(not limit.metric.startswith("p") for limit in limits)
    weighed = footprint.measure_footprint(bundle, backend, threads=asked.threads) if weigh else None
    findings = tuple(budget.check_budget(limit, timed, weighed) for limit in limits)
    plain: dict[str, Any] = {
        **identify(backend).to_dict(),
        "artifact": artifact.name,
        "environment": environment.describe(backend),
        "latency": timed.to_dict(),
        "footprint": weighed.to_dict() if weighed else None,
        "preflight": [asdict(warning) for warning in warnings],
        "budgets": [finding.to_dict() for finding in findings],
        "mlperf": mlperf.single_stream(timed.wall).to_dict() if asked.mlperf else None,
    }
    if (used := _energy(bundle, backend, asked, ranges, progress)) is not None:
        plain["energy"] = used.to_dict()
    plain["sweeps"] = _sweeps(bundle, backend, asked, progress)
    if asked.sustain:
        drift = sweeps.sustain(bundle, backend, asked.sustain, threads=asked.threads, progress=progress)
        plain["drift"] = drift.to_dict()
    if (figures := _engine(bundle, backend, asked, ranges)) is not None:
        progress("engine")
        plain["engine"] = engine_dict(figures)
    if asked.profile:
        progress("profile")
        # What the machine's processor can do says nothing of work that is done elsewhere.
        here = backends.traits(backend).runs_on_own_threads
        peak = roofline.measure_roofline(asked.threads) if here else None
        plain["profile"] = profile.profile_bundle(bundle, backend, threads=asked.threads, peak=peak).to_dict()
    plain["conditions"] = {"before": before, "after": conditions.read()}
    return Measurement(timed, findings, warnings, plain)


def _energy(
    bundle: Bundle,
    backend: str,
    asked: MeasureOptions,
    ranges: Mapping[str, ShapeRange],
    progress: Callable[[str], None],
) -> energy_use.EnergyUse | None:
    """Measure the energy of an inference, where this machine can tell and any time is to be spent."""
    if not asked.protocol.duration or (source := energy.source()) is None:
        return None
    progress(f"energy, by {source.name}")
    feeds = bundle.cases[0].inputs
    with opened(bundle, backend, asked.threads, ranges) as (run, _, _):
        run(feeds)
        return energy_use.measure_energy(run, feeds, source)


def _engine(
    bundle: Bundle, backend: str, asked: MeasureOptions, ranges: Mapping[str, ShapeRange]
) -> EngineFigures | None:
    """Measure the device apart from the host, where the backend can."""
    if not backends.measures_engines(backend):
        return None
    feeds, rule = bundle.cases[0].inputs, asked.protocol
    with opened(bundle, backend, asked.threads, ranges) as (run, _, _):
        return backends.measure_engine(backend, run, feeds, duration=rule.duration, samples=rule.iterations)


def engine_dict(figures: EngineFigures) -> JsonDict:
    """Give what was measured of an engine as plain data, with percentiles of every kind of sample."""
    samples = {kind: list(values) for kind, values in figures.samples_ms.items()}
    return {
        "level": figures.level,
        "gpu": dict(figures.device),
        "samples_ms": samples,
        "percentiles_ms": {kind: statistics.percentiles(values) for kind, values in samples.items()},
        **figures.details,
    }


def _sweeps(bundle: Bundle, backend: str, asked: MeasureOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if asked.thread_counts:
        progress(f"threads {', '.join(map(str, asked.thread_counts))}")
        points = sweeps.threads(bundle, backend, asked.thread_counts, protocol=asked.protocol)
        found["threads"] = [point.to_dict() for point in points]
    if asked.batch_sizes:
        progress(f"batches {', '.join(map(str, asked.batch_sizes))}")
        points = sweeps.batches(bundle, backend, asked.batch_sizes, threads=asked.threads, protocol=asked.protocol)
        found["batches"] = [point.to_dict() for point in points]
    return found


def thread_counts() -> tuple[int, ...]:
    """Choose a sweep's default: powers of two up to the cores that may be used, and those."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return tuple(sorted({1 << i for i in range(cores.bit_length()) if 1 << i <= cores} | {cores}))
