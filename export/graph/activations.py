"""How much memory the tensors of a run take at once, in principle: in the order of the graph, each until its last use.

    live(node) = inputs and outputs of the graph and of nodes, made before or by the node, read by it or later
    peak       = the largest sum of bytes of live(node)          weights are not counted

A runtime may do with less (in place) or more (packed copies); of two graphs for one place, it says which asks more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from attn_export.export.graph.cost import VIEWS, tensor_bytes


def peak_bytes(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> int:
    """Give the peak of the bytes that live at once, with inputs of these ``sizes``; a view takes none of its own."""
    each = tensor_bytes(model, sizes)
    weights = {tensor.name for tensor in model.graph.initializer}
    stands_for: dict[str, str] = {}
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    for node in nodes:
        if node.op_type in VIEWS and node.op_type != "Shape" and node.input:
            stands_for[node.output[0]] = stands_for.get(node.input[0], node.input[0])
    made = {stands_for.get(name, name) for node in nodes for name in node.output if name}
    ports = {port.name for port in model.graph.input} - weights
    counted = made | ports
    last = {stands_for.get(port.name, port.name): len(nodes) for port in model.graph.output}
    for index, node in enumerate(nodes):
        for name in node.input:
            real = stands_for.get(name, name)
            last[real] = max(last.get(real, 0), index)
    live, most = {name: each.get(name, 0) for name in ports}, 0
    for index, node in enumerate(nodes):
        for name in node.output:
            real = stands_for.get(name, name)
            if real in counted and real not in live:
                live[real] = each.get(real, 0)
        most = max(most, sum(live.values()))
        live = {name: size for name, size in live.items() if last.get(name, -1) > index}
    return most
