"""What is linear in what: from a root forward, every value that is one convolution of it, and why others are not."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt

from attn_export.reparam import ir
from attn_export.reparam.algebra.layout import Layout, channels_first, channels_last
from attn_export.reparam.algebra.linconv import NotFusibleError
from attn_export.reparam.algebra.toeplitz import flat
from attn_export.reparam.algebra.transfer import State, start, transfer

#: A cone stops here, so that a long linear net costs time in proportion to its length.
MOST_NODES = 64
#: A stretch of more linear nodes than this has shorter cones, of at least ``LEAST_NODES``: each root is priced with
#: every target of its cone, the work grows with the square of what a cone holds, and later rounds go on where it ended.
LONG, LEAST_NODES = 1000, 8
#: A cone also stops where so many readers for each of its nodes could not be followed: one tensor may have thousands.
_STOPS = 8
#: A tensor with a longer axis is no map of channels that anybody folds; each channel takes some bytes of bookkeeping.
_WIDEST = 1 << 24


@dataclass
class Cone:
    """Every value known to be one convolution of ``root``, in execution order, and what stopped the others."""

    root: str
    root_layout: Layout
    states: dict[str, State] = field(default_factory=dict)
    nodes: list[ir.Node] = field(default_factory=list)
    stopped: dict[str, NotFusibleError] = field(default_factory=dict)

    def region(self, targets: Iterable[str], producer: dict[str, ir.Node]) -> list[ir.Node]:
        """Return the nodes between the root and the targets, in execution order."""
        wanted, todo = set[str](), list(targets)
        while todo:
            name = todo.pop()
            if name != self.root and name not in wanted:
                wanted.add(name)
                todo += producer[name].inputs
        return [node for node in self.nodes if node.output in wanted]


def root_layouts(graph: ir.Graph, root: str) -> list[Layout]:
    """List the ways to read a tensor as batch, channels and space."""
    value = graph.values[root]
    if value.shape is None or any(size > _WIDEST for size in value.sizes or ()):
        return []
    ways = (channels_first(value.shape), channels_last(value.shape), flat(graph, value))
    return [way for way in ways if way]


def reaches(graph: ir.Graph) -> dict[str, int]:
    """Bound how many nodes the cone of each value may hold, by how many linear nodes hang together with it."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while (over := above.get(name, name)) != name:
            above[name] = name = above.get(over, over)
        return name

    nodes = [node for node in graph.nodes if not isinstance(node.op, ir.Opaque)]
    for node in nodes:
        for name in node.inputs:
            above[top(name)] = top(node.output)
    size = Counter(top(node.output) for node in nodes)
    return {
        name: max(LEAST_NODES, min(MOST_NODES, int(MOST_NODES * sqrt(LONG / max(1, size[top(name)])))))
        for name in {name for node in nodes for name in node.inputs}
    }


def followers(graph: ir.Graph) -> dict[str, str]:
    """Map each value that lies on a chain longer than a cone to the next, where nothing else is read or comes in.

    No network that anybody trained has such a chain. Its values are not all tried as roots, only those whose cones
    leave half of the last one behind; the next round tries what was left.
    """
    after: dict[str, str] = {}
    for name in graph.values:
        readers = graph.consumers.get(name, [])
        if len(readers) == 1 and not isinstance(readers[0].op, ir.Opaque) and set(readers[0].inputs) == {name}:
            after[name] = readers[0].output
    before = set(after.values())
    long: dict[str, str] = {}
    for first in after:
        if first not in before:
            run = [first]
            while run[-1] in after:
                run.append(after[run[-1]])
            if len(run) > MOST_NODES:
                long |= dict(itertools.pairwise(run))
    return long


def cone(
    graph: ir.Graph,
    position: dict[int, int],
    root: str,
    root_layout: Layout,
    most: int = MOST_NODES,
    *,
    border_maps: bool = False,
) -> Cone:
    """Follow every linear operator forward from ``root``; with ``border_maps``, also where that takes a border map."""
    value = graph.values[root]
    assert value.shape is not None
    result = Cone(root, root_layout, {root: start(value.shape, root_layout, border_maps=border_maps)})
    heap: list[tuple[int, ir.Node]] = []
    seen: set[int] = set()

    def push(name: str) -> None:
        for node in graph.consumers.get(name, []):
            if id(node) not in seen and not isinstance(node.op, ir.Opaque):
                seen.add(id(node))
                heapq.heappush(heap, (position[id(node)], node))

    push(root)
    while heap and len(result.nodes) < most and len(result.stopped) < _STOPS * most:
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
