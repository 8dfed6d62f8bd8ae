"""Time per layer, in a pass of its own: profiling slows an engine down, so no latency is taken from it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsFloat

from attn_export.deploy_tests.backends.tensorrt import bindings
from attn_export.deploy_tests.backends.tensorrt.plan import EnginePlan
from attn_export.deploy_tests.backends.tensorrt.run import EngineRun
from attn_export.errors import BackendError
from attn_export.types import Feeds


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of one layer, per run, and the ONNX nodes it was made from (none where the plan names none)."""

    layer: str
    samples: tuple[float, ...]
    nodes: tuple[str, ...] = ()

    @property
    def median(self) -> float:
        """Median in milliseconds."""
        return statistics.median(self.samples)


def profile(run: EngineRun, feeds: Feeds, *, runs: int = 50, plan: EnginePlan | None = None) -> tuple[LayerTime, ...]:
    """Time every layer over some runs; slowest first.

    Raises:
        BackendError: the engine breaks, or reports no times.
    """
    origin = {layer.name: layer.nodes for layer in plan.layers} if plan else {}
    samples: dict[str, list[float]] = {}
    run.bind(feeds)
    run.upload()
    profiler = _profiler(run, lambda layer, ms: samples.setdefault(layer, []).append(ms))
    run.context.enqueue_emits_profile = False
    run.context.profiler = profiler
    for _ in range(runs):
        run.enqueue()
        run.device.wait(run.stream)
        if not run.context.report_to_profiler():
            raise BackendError(f"{run.title} does not report layer times")
    if not samples:
        raise BackendError(f"{run.title} reported no layers")
    times = [LayerTime(name, tuple(values), origin.get(name, ())) for name, values in samples.items()]
    return tuple(sorted(times, key=lambda time: -time.median))


def _profiler(run: EngineRun, note: Callable[[str, float], None]) -> Any:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings.load(run.request.maker)

    class LayerTimer(trt.IProfiler):  # type: ignore[misc]  # no stubs are published, so the base is Any
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: SupportsFloat) -> None:
            note(layer_name, float(ms))

    return LayerTimer()
