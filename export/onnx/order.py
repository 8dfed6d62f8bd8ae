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
    order = _order(waits)
    if len(order) < len(nodes):
        stuck = nodes[min(set(range(len(nodes))) - set(order))]
        raise SubjectError(
            f"expected a graph without cycles, got one in which {stuck.op_type} {(stuck.name or stuck.output[0])!r}"
            " waits for its own result"
        )
    copies = [NodeProto() for _ in order]
    for copy, index in zip(copies, order, strict=True):
        copy.CopyFrom(nodes[index])
    del body.node[:]
    body.node.extend(copies)


def _order(waits: list[set[int]]) -> list[int]:
    """Order positions so that each comes after those it waits for, else as they are; without those in a circle."""
    readers: list[list[int]] = [[] for _ in waits]
    for index, before in enumerate(waits):
        for other in before:
            readers[other].append(index)
    remaining = [len(before) for before in waits]
    ready = [index for index, count in enumerate(remaining) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            remaining[reader] -= 1
            if not remaining[reader]:
                heapq.heappush(ready, reader)
    return order
