"""How far the sums inside products reach: of the magnitudes of what is added up, which no order of adding exceeds.

Σ |a| |b|    of a convolution or matrix product, before its bias
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from attn_export.export.precision.float16_policy import Extent, run

#: Operators that add up products of their first two operands.
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def accumulated(
    model: onnx.ModelProto, seen: Mapping[str, Extent], feeds: Iterable[Mapping[str, NDArray[Any]]]
) -> dict[int, float]:
    """Run a graph in float32, and give for each product of floats, by position, the largest sum of magnitudes.

    Raises:
        ExportError: it does not run.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    places: dict[str, int] = {}
    for index, node in enumerate(model.graph.node):
        factors = node.input[:2]
        known = all(name in seen and seen[name].dtype == np.float32 for name in factors)
        if node.op_type not in PRODUCTS or node.domain not in ("", "ai.onnx") or not known:
            continue
        total = onnx.NodeProto()
        total.CopyFrom(node)
        names = [f"magnitude_{index}_{place}" for place in range(2)]
        del total.input[:], total.output[:]
        total.input.extend(names)
        total.output.append(f"sum_{index}")
        total.name = total.output[0]
        watched.graph.node.extend(helper.make_node("Abs", [a], [b]) for a, b in zip(factors, names, strict=True))
        largest = f"largest_{index}"
        watched.graph.node.extend([total, helper.make_node("ReduceMax", total.output, [largest], keepdims=0)])
        places[largest] = index
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in places)
    found: dict[int, float] = {}
    for values in run(watched, feeds) if places else ():
        for name, value in values.items():
            index = places[name]
            found[index] = max(found.get(index, 0.0), float(value))
    return found
