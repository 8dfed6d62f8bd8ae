"""How many values an integer input may take: the rows of the tables that a graph looks it up in."""

from __future__ import annotations

import onnx
from onnx import NodeProto

from attn_export.reparam.adapters.onnx.nodes import subgraphs

#: Operators that hand an index on as it is.
_PASS = frozenset(
    ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand", "Tile", "Split")
)
#: Operators that hand a table on with as many rows.
_SAME = frozenset(("Identity", "Cast", "DequantizeLinear", "QuantizeLinear"))


def rows(model: onnx.ModelProto) -> dict[str, int]:
    """Count, for each input that is an index into constant tables, the rows of the shortest of them."""
    lengths = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    reaches = {value.name: {value.name} for value in model.graph.input if value.name not in lengths}
    found: dict[str, int] = {}
    for node in _nodes(model):
        if node.op_type == "Constant" and (values := [a.t for a in node.attribute if a.HasField("t")]):
            lengths[node.output[0]] = tuple(values[0].dims)
        if node.op_type in _SAME and node.input[0] in lengths:
            lengths[node.output[0]] = lengths[node.input[0]]
        if node.op_type in _PASS and node.input and node.input[0] in reaches:
            for name in node.output:
                reaches[name] = reaches.get(name, set()) | reaches[node.input[0]]
        if node.op_type == "Gather" and node.input[0] in lengths:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            table = lengths[node.input[0]]
            for name in reaches.get(node.input[1], ()):
                if -len(table) <= axis < len(table):
                    found[name] = min(found.get(name, table[axis]), table[axis])
    return {name: count for name, count in found.items() if count > 0}


def _nodes(model: onnx.ModelProto) -> list[NodeProto]:
    """List the nodes, each before those inside of it: what is inside reads what is outside."""
    found, todo = [], list(model.graph.node)[::-1]
    while todo:
        node = todo.pop()
        found.append(node)
        todo.extend(inner for graph in subgraphs(node) for inner in list(graph.node)[::-1])
    return found
