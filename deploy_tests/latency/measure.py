"""Measure how long one run takes. A latency is a distribution with its machine, never one number."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attn_export.bundle import Bundle
from attn_export.deploy_tests.backend import Run
from attn_export.deploy_tests.latency.statistics import Interval, median, percentile, percentiles
from attn_export.deploy_tests.machine.emulated import refuse_to_measure
from attn_export.deploy_tests.open_bundle import opened
from attn_export.process import activity
from attn_export.types import Feeds, ShapeRange, Summarised

#: Raw samples that a report keeps at most: enough for any percentile that it states.
KEPT = 5000


@dataclass(frozen=True)
class Protocol:
    """How long to warm up and to sample; times in seconds."""

    warmup: float = 0.2
    warmup_runs: int = 10
    duration: float = 3.0
    iterations: int = 200


@dataclass(frozen=True)
class Latency(Summarised):
    """Raw samples of one model on one backend, in nanoseconds, and the cold start in seconds."""

    wall: tuple[int, ...]
    cpu: tuple[int, ...]
    threads: int
    cold_start: float

    def median(self) -> Interval:
        """Median wall time with its 95 % interval, in milliseconds."""
        middle = median(self.wall)
        return Interval(middle.estimate / 1e6, middle.low / 1e6, middle.high / 1e6)

    def percentiles(self) -> dict[str, float]:
        """Wall percentiles, in milliseconds."""
        return {name: value / 1e6 for name, value in percentiles(self.wall).items()}

    def summary(self) -> str:
        """Say the median with its interval, and the tail."""
        middle, tail = self.median(), self.percentiles()
        return (
            f"p50 {middle.estimate:.3g} ms [{middle.low:.3g}, {middle.high:.3g}], p90 {tail['p90']:.3g},"
            f" p95 {tail['p95']:.3g}, p99 {tail['p99']:.3g} ms; {len(self.wall)} runs, {self.threads} thread(s)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Figures over all samples, and the raw samples, evenly thinned where a report would grow by megabytes."""
        middle = self.median()
        step = math.ceil(len(self.wall) / KEPT)
        return {
            "runs": len(self.wall),
            "threads": self.threads,
            "cold_start_s": self.cold_start,
            "wall_ms": {**self.percentiles(), "p50_interval": [middle.low, middle.high]},
            "cpu_ms": {"p50": percentile(self.cpu, 50) / 1e6},
            "samples": {"every": step, "wall_ns": list(self.wall[::step]), "cpu_ns": list(self.cpu[::step])},
        }


def measure_latency(
    run: Run, feeds: Feeds, *, threads: int, cold_start: float, protocol: Protocol | None = None
) -> Latency:
    """Warm up, then sample for at least the protocol's duration and number of runs.

    Raises:
        InconclusiveError: the processor is emulated.
    """
    refuse_to_measure()
    rule = protocol or Protocol()
    began, count = time.perf_counter(), 0
    while count < rule.warmup_runs or time.perf_counter() - began < rule.warmup:
        run(feeds)
        activity.alive()
        count += 1
    wall: list[int] = []
    cpu: list[int] = []
    began = time.perf_counter()
    while len(wall) < rule.iterations or time.perf_counter() - began < rule.duration:
        elapsed, spent = timed(run, feeds)
        activity.alive()
        wall.append(elapsed)
        cpu.append(spent)
    return Latency(tuple(wall), tuple(cpu), threads, cold_start)


def bundle_latency(
    bundle: Bundle,
    backend: str,
    *,
    threads: int = 1,
    protocol: Protocol | None = None,
    ranges: Mapping[str, ShapeRange] | None = None,
) -> Latency:
    """Measure the bundle's first case on ``backend``, prepared for ``ranges`` of shapes.

    Raises:
        UnknownNameError, BackendMissingError, BackendError: as ``opened``.
        InconclusiveError: as ``measure_latency``.
    """
    with opened(bundle, backend, threads, ranges) as (run, _, seconds):
        return measure_latency(run, bundle.cases[0].inputs, threads=threads, cold_start=seconds, protocol=protocol)


def timed(run: Run, feeds: Feeds) -> tuple[int, int]:
    """Run once; wall and CPU time of the whole process, in nanoseconds."""
    spent, began = time.process_time_ns(), time.perf_counter_ns()
    run(feeds)
    return time.perf_counter_ns() - began, time.process_time_ns() - spent
