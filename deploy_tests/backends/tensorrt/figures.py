"""Everything that is measured of one open engine: three latencies, the plan with the time of its layers, the GPU."""

from __future__ import annotations

from attn_export.deploy_tests.backend import EngineFigures
from attn_export.deploy_tests.backends.tensorrt import inspector, latency, machine
from attn_export.deploy_tests.backends.tensorrt.profile import profile
from attn_export.deploy_tests.backends.tensorrt.run import EngineRun
from attn_export.types import Feeds


def measure(run: EngineRun, feeds: Feeds, *, duration: float = 3.0, samples: int = 200) -> EngineFigures:
    """Take samples by kind first, then, in a pass of its own, the time of each layer with the ONNX nodes it runs.

    Raises:
        BackendError: the engine breaks, or its plan cannot be read.
    """
    taken = latency.measure(run, feeds, duration=duration, least=samples)
    plan = inspector.inspect(run)
    layers = profile(run, feeds, plan=plan)
    return EngineFigures(
        samples_ms={"gpu": taken.gpu, "host": taken.host, "graph": taken.graph},
        device=machine.describe(run.device.runtime, run.device.index),
        details={
            "graph_missing": taken.graph_missing,
            "plan": plan.to_dict(),
            "layers_ms": [{"layer": t.layer, "nodes": list(t.nodes), "samples_ms": list(t.samples)} for t in layers],
        },
    )
