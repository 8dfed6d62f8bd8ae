"""What is linear in what: from a root forward, every value that is one convolution of it, and why others are not."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from attn_export.reparam import ir
from attn_export.reparam.algebra.layout import Layout, channels_first, channels_last
from attn_export.reparam.algebra.linconv import NotFusibleError
from attn_export.reparam.algebra.toeplitz import flat
from attn_export.reparam.algebra.transfer import State, start, transfer

#: A cone stops here, so that a long linear net costs time in proportion to its length.
MOST_NODES = 64


@dataclass
class Cone:
    """Every value known to be one convolution of ``root``, in execution order, and what stopped the others."""

    root: str
    home: Layout
    states: dict[str, State] = field(default_factory=dict)
    nodes: list[ir.Node] = field(default_factory=list)
    stopped: dict[str, NotFusibleError] = field(default_factory=dict)

    def region(self, targets: Iterable[str], producer: dict[str, ir.Node]) -> list[ir.Node]:
        """The nodes between the root and the targets, in execution order."""
        wanted, todo = set[str](), list(targets)
        while todo:
            name = todo.pop()
            if name != self.root and name not in wanted:
                wanted.add(name)
                todo += producer[name].inputs
        return [node for node in self.nodes if node.output in wanted]


def homes(graph: ir.Graph, root: str) -> list[Layout]:
    """The ways to read a tensor as batch, channels and space."""
    value = graph.values[root]
    if value.shape is None:
        return []
    return [home for home in (channels_first(value.shape), channels_last(value.shape), flat(graph, value)) if home]


def cone(
    graph: ir.Graph, position: dict[int, int], root: str, home: Layout, most: int = MOST_NODES, *, repair: bool = False
) -> Cone:
    """Follow every linear operator forward from ``root``; with ``repair``, also where that takes a border map."""
    value = graph.values[root]
    assert value.shape is not None
    result = Cone(root, home, {root: start(value.shape, home, repair=repair)})
    heap: list[tuple[int, ir.Node]] = []
    seen: set[int] = set()

    def push(name: str) -> None:
        for node in graph.consumers.get(name, []):
            if id(node) not in seen and not isinstance(node.op, ir.Opaque):
                seen.add(id(node))
                heapq.heappush(heap, (position[id(node)], node))

    push(root)
    while heap and len(result.nodes) < most:
        _, node = heapq.heappop(heap)
        if not all(name in result.states for name in node.inputs):
            continue  # another ancestor comes in
        try:
            state = transfer(node.op, [result.states[n] for n in node.inputs], graph.values[node.output].shape)
        except NotFusibleError as error:
            result.stopped[node.output] = error
            continue
        result.states[node.output] = state
        result.nodes.append(node)
        push(node.output)
    return result
