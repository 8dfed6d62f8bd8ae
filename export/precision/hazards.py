"""Where a float32 graph goes wrong when all of it is computed in float16: by the ranges that a run showed.

overflow: a value, or a sum of values, beyond 65,504            vanish: a tensor below 2⁻²⁴ throughout, or an epsilon
fade: a tensor below 2⁻¹⁴ throughout, which keeps fewer bits    accumulate: products that add up to more than 65,504
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from attn_export.export.precision.equalise import equalised
from attn_export.export.precision.float16_policy import LARGEST, Extent, decide
from attn_export.export.precision.rounded16 import Culprit

#: The least number of float16 that is not 0.
LEAST = 2.0**-24
#: The least that has all eleven bits: below, each halving loses one.
NORMAL, BITS = 2.0**-14, 11
OVERFLOW, ACCUMULATOR, ROUNDING = "float16", "float16-accumulator", "float16-rounding"


@dataclass(frozen=True)
class Hazard:
    """A node that float16 breaks.

    Attributes:
        node: which.
        reason: what overflows or vanishes.
        remedy: what to do.
        index: its position in the graph.
        rule: ``float16`` where tensors break, ``float16-accumulator`` where only a sum on its way may,
            ``float16-rounding`` where eleven bits are too few.
    """

    node: onnx.NodeProto
    reason: str
    remedy: str
    index: int
    rule: str = OVERFLOW


def hazards(
    model: onnx.ModelProto, seen: Mapping[str, Extent], sums: Mapping[int, float] | None = None
) -> Iterator[Hazard]:
    """List the nodes in the order of the graph, given what a float32 run showed of every tensor, and of ``sums``."""
    scaled = {item.tensor for item in equalised(model, seen, LARGEST)[1].scaled}
    broken = decide(model, seen, LARGEST)
    for index, node in enumerate(model.graph.node):
        reason = broken.get(index, "") or _gone(node, seen)
        if reason:
            helps = bool(scaled.intersection((*node.input, *node.output)))
            kept = "keep it in float32 (--fp16 does)" if index in broken else SCALE
            yield Hazard(node, reason, "--equalize divides it, exactly" if helps else kept, index)
        elif (total := (sums or {}).get(index, 0.0)) > LARGEST:
            reason = f"the magnitudes of its products add up to {total:.3g}, more than {LARGEST:.0f}"
            yield Hazard(node, f"{reason}: a sum in float16 may overflow on its way", ADD_UP, index, ACCUMULATOR)


def too_few_bits(model: onnx.ModelProto, found: Culprit) -> Hazard:
    """Say of a node that rounding it alone costs the outputs too much."""
    before, after = (f"{one:.0f} dB" if one is not None else "NaN" for one in (found.before_db, found.after_db))
    reason = f"rounding what it gives brings the outputs from {before} to {after}: eleven bits are too few for it"
    return Hazard(model.graph.node[found.index], reason, "keep it in float32", found.index, ROUNDING)


SCALE = "multiply by a power of two before, and divide behind; or keep it in float32"
ADD_UP = "add up in float32 where the target can"


def _gone(node: onnx.NodeProto, seen: Mapping[str, Extent]) -> str:
    for name in node.output:
        extent = seen.get(name)
        if extent is None or extent.dtype != np.float32 or not 0 < extent.largest < NORMAL:
            continue
        if extent.largest < LEAST:
            return f"it gives at most {extent.largest:.3g}, which is 0 in float16"
        bits = BITS + math.floor(math.log2(extent.largest / NORMAL))
        return f"it gives at most {extent.largest:.3g}, of which float16 keeps {bits} of {BITS} bits"
    return ""
