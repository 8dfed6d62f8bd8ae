"""Write GELU in the form that runtimes know: x/2 · (1 + erf(x/√2)), not x · (½ · (1 + erf(x/√2))).

Halving is exact, so both give the same bits (but where a result is too small for full precision); ONNX Runtime makes
one kernel of the first only (1.32), where the exporter writes the second. From opset 20 on GELU is an operator.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import numpy_helper


def scale_first(model: onnx.ModelProto) -> int:
    """Rewrite every GELU of ``model`` in place, and return how many there were."""
    graph = model.graph
    maker = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def is_half(name: str) -> bool:
        tensor = constants.get(name)
        return tensor is not None and not tensor.dims and numpy_helper.to_array(tensor).item() == 0.5

    def made_by(name: str, kind: str) -> onnx.NodeProto | None:
        node = maker.get(name)
        return node if node is not None and node.op_type == kind and readers[name] == 1 else None

    count = 0
    for last in graph.node:
        if last.op_type != "Mul":
            continue
        for x, factor in (tuple(last.input), tuple(last.input)[::-1]):
            scaled = made_by(factor, "Mul")
            if scaled is None or sum(map(is_half, scaled.input)) != 1:
                continue
            half, gate = sorted(scaled.input, key=is_half, reverse=True)
            one_more = made_by(gate, "Add")
            if one_more is None or not any(made_by(name, "Erf") for name in one_more.input):
                continue
            del scaled.input[:], last.input[:]
            scaled.input.extend([x, half])
            last.input.extend([factor, gate])
            count += 1
            break
    return count
