"""Where a float32 graph goes wrong when all of it is computed in float16: by the ranges that a run showed.

overflow: a value, or a sum of values, beyond 65,504            vanish: a tensor below 2⁻²⁴ throughout, or an epsilon
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from attn_export.export.precision.equalise import equalised
from attn_export.export.precision.float16_policy import LARGEST, Extent, decide

#: The least number of float16 that is not 0.
LEAST = 2.0**-24


@dataclass(frozen=True)
class Hazard:
    """A node that float16 breaks.

    Attributes:
        node: which.
        reason: what overflows or vanishes.
        remedy: what to do.
    """

    node: onnx.NodeProto
    reason: str
    remedy: str


def hazards(model: onnx.ModelProto, seen: Mapping[str, Extent]) -> Iterator[Hazard]:
    """List the nodes in the order of the graph, given what a float32 run showed of every tensor."""
    scaled = {item.tensor for item in equalised(model, seen, LARGEST)[1].scaled}
    broken = decide(model, seen, LARGEST)
    for index, node in enumerate(model.graph.node):
        reason = broken.get(index, "") or _gone(node, seen)
        if reason:
            helps = bool(scaled.intersection((*node.input, *node.output)))
            yield Hazard(
                node, reason, "--equalize divides it, exactly" if helps else "keep it in float32 (--fp16 does)"
            )


def _gone(node: onnx.NodeProto, seen: Mapping[str, Extent]) -> str:
    for name in node.output:
        extent = seen.get(name)
        if extent is not None and extent.dtype == np.float32 and 0 < extent.largest < LEAST:
            return f"it gives at most {extent.largest:.3g}, which is 0 in float16"
    return ""
