"""Put nodes into an order in which they can be run: some producers write them in another one, some runtimes take it."""

from __future__ import annotations

import heapq

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from attn_export.errors import SubjectError
from attn_export.export.onnx.walk import bodies
from attn_export.reparam.adapters.onnx.nodes import inputs_of


def sort(model: ModelProto) -> None:
    """Sort the nodes of every graph and function in place, leaving what is in order as it is.

    Raises:
        SubjectError: nodes wait for each other.
    """
    for body in bodies(model):
        _sort(body)


def _sort(body: GraphProto | FunctionProto) -> None:
    nodes = list(body.node)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = [{maker[name] for name in inputs_of(node) if name in maker} for node in nodes]
    if all(max(before, default=-1) < index for index, before in enumerate(waits)):
        return
    readers: list[list[int]] = [[] for _ in nodes]
    for index, before in enumerate(waits):
        for other in before:
            readers[other].append(index)
    left = [len(before) for before in waits]
    ready = [index for index, count in enumerate(left) if not count]
    order: list[NodeProto] = []
    while ready:
        index = heapq.heappop(ready)
        copy = NodeProto()
        copy.CopyFrom(nodes[index])
        order.append(copy)
        for reader in readers[index]:
            left[reader] -= 1
            if not left[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, left, strict=True) if count)
        raise SubjectError(
            f"expected a graph without cycles, got one in which {stuck.op_type} {(stuck.name or stuck.output[0])!r}"
            " waits for its own result"
        )
    del body.node[:]
    body.node.extend(order)
