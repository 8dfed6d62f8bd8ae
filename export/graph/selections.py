"""Find the outputs whose rows an operator of the graph chose: TopK and NonMaxSuppression put them in order as well.

It is found by trying, not by reading the graph, which may be a whole decoder: what such an operator might have given is
exchanged two by two, and what follows from it is evaluated in float64. An output whose rows are exchanged by that, and
are the same otherwise, holds what was chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx

from attn_export.bundle import Selection, rows
from attn_export.export.graph import cut
from attn_export.export.graph.index import FLOATING, GraphIndex, attribute, is_standard
from attn_export.reparam.adapters.onnx.nodes import inputs_of
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array, Feeds

#: Operators that choose and put in order.
ORDERING = ("TopK", "NonMaxSuppression")
#: Boxes of which suppression is made to have left.
_MADE_UP = 8
#: How far rows are the same, in root mean squares of their columns: float64 adds up in another order.
_SAME = 1e-7


def found(model: onnx.ModelProto, feeds: Feeds) -> tuple[Selection, ...]:
    """Find them, at the sizes of some inputs.

    Raises:
        ExportError: an operator of the graph is none that the evaluation knows.
    """
    places = [i for i, node in enumerate(model.graph.node) if is_standard(node) and node.op_type in ORDERING]
    if not places:
        return ()
    wanted = [value.name for value in model.graph.output]
    exact = OnnxEvaluator(model)
    made: list[Selection] = []
    for place in places:
        node = model.graph.node[place]
        tail = _after(model, place, wanted)
        reads = dict.fromkeys((*cut.reads(model, tail), *node.input[:2], *filter(None, node.output)))
        values = dict(exact.visit(feeds, reads))
        axes = _exchanged(model, node, tail, values, wanted)
        if axes:
            made.append(Selection(f"{node.op_type} {node.name or node.output[0]!r}"[:1000], axes))
    return tuple(_merged(made))


def _after(model: onnx.ModelProto, place: int, outputs: Iterable[str]) -> list[int]:
    """List the nodes that read what the one at ``place`` gives, at any distance."""
    reached, after = set(filter(None, model.graph.node[place].output)), []
    for position in range(place + 1, len(model.graph.node)):
        node = model.graph.node[position]
        if reached.intersection(inputs_of(node)):
            reached.update(filter(None, node.output))
            after.append(position)
    live, needed = set(outputs), []
    for position in reversed(after):
        if live.intersection(model.graph.node[position].output):
            live.update(inputs_of(model.graph.node[position]))
            needed.append(position)
    return needed[::-1]


def _exchanged(
    model: onnx.ModelProto, node: onnx.NodeProto, tail: list[int], values: Mapping[str, Array], outputs: list[str]
) -> dict[str, int]:
    """Give the outputs whose rows are exchanged where those of ``node`` are, and the axis that they lie along."""
    axis = 0 if node.op_type == "NonMaxSuppression" else int(attribute(node, "axis", -1)) % values[node.output[0]].ndim
    before = {**values, **_made_up(node, values, axis)}
    after = {**before, **{name: _swapped(before[name], axis) for name in filter(None, node.output)}}
    made = {name for position in tail for name in model.graph.node[position].output}
    behind = [name for name in outputs if name in made]
    evaluator = OnnxEvaluator(cut.extract(model, tail, before, behind)) if behind else None
    one, other = (
        {**{name: side[name] for name in outputs if name in node.output}, **(evaluator.run(side) if evaluator else {})}
        for side in (before, after)
    )
    return {name: axis for name in one for axis in _axis(one[name], other[name])}


def _made_up(node: onnx.NodeProto, values: Mapping[str, Array], axis: int) -> dict[str, Array]:
    """Give what it might have chosen, no two alike and of every class in turn: what it did may be nothing, or alike."""
    if node.op_type == "NonMaxSuppression":
        _, classes, boxes = values[node.input[1]].shape
        return {node.output[0]: np.array([[0, place % classes, place] for place in range(min(boxes, _MADE_UP))])}
    found = {}
    for name, kind in zip(node.output, ("value", "place"), strict=False):
        if name:
            shape = [-1 if at == axis else 1 for at in range(values[name].ndim)]
            count = values[name].shape[axis]
            row = np.arange(count) if kind == "place" else np.linspace(1.0, 0.5, count)
            found[name] = np.broadcast_to(row.reshape(shape), values[name].shape).astype(values[name].dtype)
    return found


def _swapped(values: Array, axis: int) -> Array:
    """Exchange what was chosen two by two; of an odd number the last stays."""
    count = values.shape[axis]
    pairs = np.arange(count) ^ 1
    return values.take(np.where(pairs < count, pairs, count - 1), axis)


def _axis(before: Array, after: Array) -> Iterator[int]:
    """Yield the axis along which rows were exchanged, if there is one."""
    if before.shape != after.shape or np.array_equal(before, after, equal_nan=True):
        return
    pair, other = {"": before}, {"": after}
    for axis in range(before.ndim):
        if 2 <= before.shape[axis] <= rows.MOST:
            selection = (Selection("", {"": axis}),)
            moved = rows.matched(other, pair, selection)[""]
            if not np.array_equal(moved, after) and rows.apart(other, pair, selection) <= _SAME:
                yield axis
                return


def _merged(found: Iterable[Selection]) -> list[Selection]:
    """Make one of those that share an output: rows that several operators chose lie in it one behind the other."""
    made: list[Selection] = []
    for one in found:
        shared = [other for other in made if other.rows.keys() & one.rows.keys()]
        together = {name: axis for each in (*shared, one) for name, axis in each.rows.items()}
        made = [other for other in made if other not in shared]
        made.append(Selection((shared[0] if shared else one).node, together))
    return made


def entering(model: onnx.ModelProto) -> dict[tuple[str, int], str]:
    """List what the first operators that choose read, made by nodes and of floating point: what they choose from.

    By the operator's first output, which stages leave alone, and the place among its inputs. Behind those operators
    there is nothing to compare place by place.
    """
    index, found, after = GraphIndex(model), dict[tuple[str, int], str](), set[str]()
    for node in index.nodes:
        if after.intersection(inputs_of(node)):
            after.update(node.output)
        elif is_standard(node) and node.op_type in ORDERING:
            after.update(node.output)
            for place, name in enumerate(node.input[:2]):
                if name in index.maker and not index.is_constant(name) and index.element_type(name) in FLOATING:
                    found[node.output[0], place] = name
    return found
