"""Run a piece of the small graph: the nodes between a root and its targets, in float64 or as algebra."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from attn_export.reparam import ir
from attn_export.reparam.algebra.linconv import BORDER
from attn_export.reparam.algebra.transfer import State, start, transfer
from attn_export.reparam.evaluate import ir as execute
from attn_export.reparam.planning.plan import Merge
from attn_export.reparam.types import Dim


def between(graph: ir.Graph, root: str, targets: Sequence[str]) -> list[ir.Node]:
    """Return the nodes from a root to targets, in execution order."""
    wanted, todo = set[str](), list(targets)
    while todo:
        name = todo.pop()
        if name != root and name not in wanted:
            wanted.add(name)
            todo += graph.producer[name].inputs
    return [graph.producer[name] for name in sorted(wanted, key=graph.position.__getitem__)]


def replay(graph: ir.Graph, merge: Merge, ops: Mapping[int, ir.Op], region: Sequence[ir.Node]) -> dict[str, State]:
    """Run the algebra over a region again with other operators (by ``id`` of the node).

    Raises:
        NotFusibleError: with these operators it is not one convolution.
    """
    shape = graph.values[merge.root].shape
    assert shape is not None
    states = {merge.root: start(shape, merge.root_layout, border_maps=BORDER in merge.notes)}
    for node in region:
        op = ops.get(id(node), node.op)
        states[node.output] = transfer(op, [states[n] for n in node.inputs], graph.values[node.output].shape)
    return states


def execute_region(
    graph: ir.Graph,
    nodes: Sequence[ir.Node],
    feeds: Mapping[str, Tensor],
    wanted: Sequence[str],
    shape: Sequence[int],
) -> dict[str, Tensor]:
    """Run nodes from their root, whose shape binds the symbols that reshapes need."""
    root = next(iter(feeds))
    symbols = {
        name: size for name, size in zip(graph.values[root].shape or (), shape, strict=True) if isinstance(name, str)
    }
    traced = graph.values[root].sizes
    values = dict(feeds)
    for node in nodes:
        args = [values[name] for name in node.inputs]
        if isinstance(node.op, ir.Reshape):
            value = graph.values.get(node.output)
            values[node.output] = execute.reshape(args[0], target_sizes(value, symbols, tuple(shape) == traced))
        else:
            values[node.output] = execute.apply(node.op, args)
    return {name: values[name] for name in wanted}


def target_sizes(value: ir.Value | None, symbols: Mapping[str, int], traced: bool) -> list[int]:
    """Return the sizes a reshape makes, by numbers.

    Raises:
        ValueError: the symbols do not give them.
    """
    if value is None or value.shape is None:
        raise ValueError("a reshape to a shape that is not known")
    if traced and value.sizes is not None:
        return list(value.sizes)
    sizes = [_evaluate(dim, symbols) for dim in value.shape]
    if sizes.count(-1) > 1:
        raise ValueError("a reshape to a shape that is not known at this size")
    return sizes


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def _evaluate(dim: Dim, symbols: Mapping[str, int]) -> int:
    """Evaluate a dimension by numbers; -1 if the symbols do not give it."""
    if isinstance(dim, int):
        return dim
    if dim is None:
        return -1
    if dim in symbols:
        return symbols[dim]

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name):
                return symbols[name]
            case ast.BinOp(left=left, op=op, right=right):
                return int(_OPERATORS[type(op)](value(left), value(right)))
        raise KeyError

    try:
        return value(ast.parse(dim, mode="eval").body)
    except (SyntaxError, KeyError):
        return -1
