"""Latency over a range: of threads, of batch sizes, of minutes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from attn_export.bundle import Bundle
from attn_export.deploy_tests.backend import Run
from attn_export.deploy_tests.latency.measure import Latency, Protocol, bundle_latency, measure_latency, timed
from attn_export.deploy_tests.latency.statistics import percentile
from attn_export.deploy_tests.open_bundle import opened
from attn_export.errors import UsageError
from attn_export.process import activity
from attn_export.types import Feeds

#: A drift below this share is what a steady machine shows as well.
STEADY = 0.05


@dataclass(frozen=True)
class Point:
    """One setting of a sweep and its latency; ``per_item`` is the median over the batch, in milliseconds."""

    setting: int
    latency: Latency
    per_item: float

    def to_dict(self) -> dict[str, Any]:
        """Figures, without raw samples."""
        low_high = self.latency.median()
        return {
            "setting": self.setting,
            "wall_ms": {**self.latency.percentiles(), "p50_interval": [low_high.low, low_high.high]},
            "per_item_ms": self.per_item,
            "runs": len(self.latency.wall),
        }


@dataclass(frozen=True)
class Drift:
    """Median latency in equal windows of a long run, in milliseconds, and its change from the first to the last."""

    window_p50_ms: tuple[float, ...]
    duration_s: float
    slope_ms_per_minute: float

    @property
    def change(self) -> float:
        """Share by which the last quarter is slower than the first."""
        quarter = max(1, len(self.window_p50_ms) // 4)
        first, last = statistics.median(self.window_p50_ms[:quarter]), statistics.median(self.window_p50_ms[-quarter:])
        return last / first - 1

    @property
    def steady(self) -> bool:
        """Whether it stayed within what a steady machine shows."""
        return abs(self.change) <= STEADY

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "change": self.change, "steady": self.steady}


def threads(
    bundle: Bundle, backend: str, counts: Sequence[int], *, protocol: Protocol | None = None
) -> tuple[Point, ...]:
    """Measure the first case with each number of threads."""
    points = []
    for count in counts:
        taken = bundle_latency(bundle, backend, threads=count, protocol=protocol)
        points.append(Point(count, taken, taken.median().estimate / batch_of(bundle)))
    return tuple(points)


def batches(
    bundle: Bundle, backend: str, sizes: Sequence[int], *, threads: int = 1, protocol: Protocol | None = None
) -> tuple[Point, ...]:
    """Measure the first case repeated or cut to each batch size.

    Raises:
        UsageError: the batch of this bundle is fixed, or does not allow a size.
    """
    points = []
    with opened(bundle, backend, threads) as (run, _, seconds):
        for size in sizes:
            feeds = resized(bundle, size)
            taken = measure_latency(run, feeds, threads=threads, cold_start=seconds, protocol=protocol)
            points.append(Point(size, taken, taken.median().estimate / size))
    return tuple(points)


def sustain(
    bundle: Bundle,
    backend: str,
    seconds: float,
    *,
    threads: int = 1,
    windows: int = 20,
    progress: Callable[[str], None] = lambda _: None,
) -> Drift:
    """Run without a pause for ``seconds`` and see whether it gets slower, as it does where heat or a quota bites."""
    with opened(bundle, backend, threads) as (run, _, _):
        return drift(run, bundle.cases[0].inputs, seconds, windows, progress)


def drift(
    run: Run, feeds: Feeds, seconds: float, windows: int = 20, progress: Callable[[str], None] = lambda _: None
) -> Drift:
    """As ``sustain``, for anything that runs."""
    medians: list[float] = []
    began = time.perf_counter()
    for index in range(windows):
        samples: list[int] = []
        while not samples or time.perf_counter() - began < seconds * (index + 1) / windows:
            samples.append(timed(run, feeds)[0])
            activity.alive()
        medians.append(percentile(samples, 50) / 1e6)
        progress(f"{medians[-1]:.3g} ms after {time.perf_counter() - began:.0f} s")
    return of_windows(medians, time.perf_counter() - began)


def of_windows(medians: Sequence[float], seconds: float) -> Drift:
    """Compute the drift of medians; the slope is Theil and Sen's (a median of slopes), which no one bad window bends.

    >>> round(of_windows([10.0, 10.1, 10.2, 99.0, 10.4], 60.0).slope_ms_per_minute, 3)
    0.5
    """
    step = seconds / len(medians) / 60
    slopes = [
        (medians[j] - medians[i]) / ((j - i) * step) for i in range(len(medians)) for j in range(i + 1, len(medians))
    ]
    return Drift(tuple(medians), seconds, statistics.median(slopes) if slopes else 0.0)


def batch_of(bundle: Bundle) -> int:
    """Batch size of the first case: the length of the first varying dimension of the first input, or 1."""
    place = _place(bundle)
    return int(bundle.cases[0].inputs[place[0]].shape[place[1]]) if place else 1


def resized(bundle: Bundle, size: int) -> dict[str, Any]:
    """Repeat or cut the batch of the first case to ``size``.

    Raises:
        UsageError: the batch of this bundle is fixed, or does not allow ``size``.
    """
    place = _place(bundle)
    if not place:
        raise UsageError(f"{bundle.path} has a fixed batch; export it with --dynamic batch to sweep batch sizes")
    name = place[2]
    dim = next(dim for dim in bundle.dynamic_dims if dim.name == name)
    if size < dim.min or (dim.max and size > dim.max) or size % dim.step:
        raise UsageError(f"{name} = {size} is not allowed: multiples of {dim.step} from {dim.min} to {dim.max or '∞'}")
    feeds = {}
    for port in bundle.inputs:
        value = bundle.cases[0].inputs[port.name]
        for axis, length in enumerate(port.shape):
            if length == name:
                value = np.take(value, np.arange(size) % value.shape[axis], axis=axis)
        feeds[port.name] = np.ascontiguousarray(value)
    return feeds


def _place(bundle: Bundle) -> tuple[str, int, str] | None:
    """Input, axis and name of the batch: the leading dimension of the first input, where it may vary."""
    varying = {dim.name for dim in bundle.dynamic_dims}
    for port in bundle.inputs:
        if port.shape and isinstance(port.shape[0], str) and port.shape[0] in varying:
            return port.name, 0, port.shape[0]
    return None
