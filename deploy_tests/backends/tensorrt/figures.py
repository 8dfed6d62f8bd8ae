"""Everything that is measured of one open engine, as plain data: three latencies, layers, and the GPU's state."""

from __future__ import annotations

from typing import Any

from attn_export.deploy_tests.backends.tensorrt import inspector, latency, machine
from attn_export.deploy_tests.backends.tensorrt.profile import profile
from attn_export.deploy_tests.backends.tensorrt.run import EngineRun
from attn_export.types import Feeds


def measure(run: EngineRun, feeds: Feeds, *, duration: float = 3.0, samples: int = 200) -> dict[str, Any]:
    """Samples by kind first, then, in a pass of its own, the time of each layer with the ONNX nodes it was made from.

    Raises:
        BackendError: the engine breaks, or its plan cannot be read.
    """
    taken = latency.measure(run, feeds, duration=duration, least=samples)
    plan = inspector.inspect(run)
    layers = profile(run, feeds, plan=plan)
    kinds = {"gpu": taken.gpu, "host": taken.host, "graph": taken.graph}
    return {
        "level": "E2",
        "gpu": machine.describe(run.device.runtime, run.device.index),
        "samples_ms": {kind: list(values) for kind, values in kinds.items()},
        "percentiles_ms": {kind: latency.percentiles(values) for kind, values in kinds.items()},
        "graph_missing": taken.graph_missing,
        "plan": plan.to_dict(),
        "layers_ms": [{"layer": t.layer, "nodes": list(t.nodes), "samples": list(t.samples)} for t in layers],
    }
