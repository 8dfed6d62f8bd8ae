"""Three latencies of one engine, never one: what the GPU computes, what the host waits for, what a CUDA graph takes.

    gpu     between two CUDA events around the engine, no transfers
    host    copy in, run, copy out, synchronise: what a caller waits for
    graph   between two CUDA events around the launch of the captured engine, no transfers

Raw samples are kept, in milliseconds, in the order in which they were taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from attn_export.deploy_tests.backends.tensorrt.cuda import GpuError
from attn_export.deploy_tests.backends.tensorrt.run import EngineRun
from attn_export.errors import BackendError
from attn_export.types import Feeds


@dataclass(frozen=True)
class Latencies:
    """Samples in milliseconds, and why there is no figure for the CUDA graph where there is none."""

    gpu: tuple[float, ...]
    host: tuple[float, ...]
    graph: tuple[float, ...]
    graph_missing: str = ""


def measure(
    run: EngineRun,
    feeds: Feeds,
    *,
    warmup: float = 0.2,
    least_warmup: int = 10,
    duration: float = 3.0,
    least: int = 200,
    most: int = 100_000,
) -> Latencies:
    """Measure an engine on one set of inputs: at least ``duration`` seconds and ``least`` samples of each kind.

    Raises:
        BackendError: the engine breaks.
    """
    run.bind(feeds)
    device, stream = run.device, run.stream
    start, end = device.event(), device.event()

    def between(enqueue: Callable[[], None]) -> Callable[[], float]:
        def sample() -> float:
            device.record(start, stream)
            enqueue()
            device.record(end, stream)
            device.wait(stream)
            return device.elapsed(start, end)

        return sample

    def host() -> float:
        begin = time.perf_counter_ns()
        run.upload()
        run.enqueue()
        run.download()
        return (time.perf_counter_ns() - begin) / 1e6

    def series(sample: Callable[[], float]) -> tuple[float, ...]:
        _collect(sample, warmup, least_warmup, most)
        return tuple(_collect(sample, duration, least, most))

    try:
        whole = series(host)  # first: the engine's inputs are on the device from here on
        compute = series(between(run.enqueue))
        captured: tuple[float, ...] = ()
        why = ""
        try:
            graph = device.capture(stream, run.enqueue)
        except (GpuError, BackendError) as error:
            why = f"the engine cannot be captured: {error}"
        else:
            captured = series(between(lambda: device.launch(graph, stream)))
            graph.free()
    finally:
        if not device.hung:
            end.free()
            start.free()
    return Latencies(compute, whole, captured, why)


def _collect(sample: Callable[[], float], seconds: float, least: int, most: int) -> list[float]:
    samples: list[float] = []
    until = time.monotonic() + seconds
    while len(samples) < least or (time.monotonic() < until and len(samples) < most):
        samples.append(sample())
    return samples
