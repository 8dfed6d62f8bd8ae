"""Prove a collapse: bit equality under dyadic weights, then float64 with the real ones, over everything.

With small integers and powers of two for weights and inputs float64 makes no rounding error at all, so un-fused and
fused must agree in every bit of the whole output: a tap, a border or a channel in the wrong place cannot hide. Then
the real weights, by the largest error over everything; never a mean, never the interior.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from attn_export.reparam import absorb, execute, ir
from attn_export.reparam.cost import Profile
from attn_export.reparam.emit import form
from attn_export.reparam.layout import Dim, channels_first
from attn_export.reparam.linconv import Array, NotFusibleError
from attn_export.reparam.plan import Merge, node_work
from attn_export.reparam.transfer import State, start, transfer

#: Constants written in float32 (a padding that equals a bias up to rounding) let a site agree to this only.
ROUNDED_BOUND = 2.0**-18
#: A region of fewer multiply-accumulates than this is also run at the traced size.
_CHEAP = 5e7


@dataclass(frozen=True)
class Proof:
    """What was found at one site: bit equality under dyadic weights (None: could not be tried), and the worst error."""

    structure: bool | None
    error: float
    sizes: tuple[tuple[int, ...], ...]
    rounded: bool = False

    def ok(self, bound: float) -> bool:
        """Whether the collapse is proven."""
        return self.structure is not False and self.error <= (ROUNDED_BOUND if self.rounded else bound)


def prove(graph: ir.Graph, merge: Merge, profile: Profile, seed: int = 0) -> Proof:
    """Compare a merge's nodes with the original ones on the traced size and, where sizes do not matter, two others."""
    rng = np.random.default_rng(seed)
    region = between(graph, merge.root, merge.targets)
    rounded, sizes = "rounding" in merge.notes, list[tuple[int, ...]]()
    if _overflows(graph, merge):
        return Proof(None, float("inf"), ())
    twin = _twin(graph, merge, region, profile, rng)
    structure, worst = None, 0.0
    for shape in _shapes(graph, merge, region, twin):
        try:
            feeds = {merge.root: torch.from_numpy(rng.standard_normal(shape))}
            wanted = execute_region(graph, region, feeds, merge.targets, shape)
        except (RuntimeError, ValueError):
            continue  # the original does not run at this size
        sizes.append(shape)
        try:
            got = execute_region(graph, merge.added, feeds, merge.targets, shape)
            worst = _worst(worst, *(relative_error(got[t], wanted[t]) for t in merge.targets))
            exact = None if twin is None else twin.agrees(merge, shape, rng)
        except (RuntimeError, ValueError):
            return Proof(False, float("nan"), tuple(sizes), rounded)
        if exact is not None:
            structure = exact and structure is not False
    return Proof(structure, worst if sizes else float("nan"), tuple(sizes), rounded)


def _overflows(graph: ir.Graph, merge: Merge) -> bool:
    """Whether a new constant does not fit half precision, in which the graph would store it."""
    if graph.values[merge.root].dtype != "float16":
        return False
    arrays = [
        a for node in merge.added for a in vars(node.op).values() if isinstance(a, np.ndarray) and a.dtype == float
    ]
    return any(float(np.abs(a).max(initial=0)) > 65504 for a in arrays)


def between(graph: ir.Graph, root: str, targets: Sequence[str]) -> list[ir.Node]:
    """The nodes from a root to targets, in execution order."""
    wanted, todo = set[str](), list(targets)
    while todo:
        name = todo.pop()
        if name != root and name not in wanted:
            wanted.add(name)
            todo += graph.producer[name].inputs
    return [graph.producer[name] for name in sorted(wanted, key=graph.position.__getitem__)]


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """The largest error over everything, relative to the largest magnitude; infinite where shapes differ."""
    if got.shape != wanted.shape:
        return float("inf")
    if not wanted.numel():
        return 0.0
    difference = (got - wanted).abs().max()
    return float(difference / wanted.abs().max().clamp_min(1e-300)) if difference else 0.0


def _worst(*errors: float) -> float:
    return max(errors, key=lambda e: (e != e, e))


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
    """The sizes a reshape makes, by numbers.

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
    """A dimension by numbers; -1 if the symbols do not give it."""
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


def _shapes(graph: ir.Graph, merge: Merge, region: Sequence[ir.Node], twin: Twin | None) -> Iterator[tuple[int, ...]]:
    """Sizes to try: small ones where the algebra does not depend on sizes, and the traced one if it is cheap."""
    traced = graph.values[merge.root].sizes
    shape = graph.values[merge.root].shape
    assert traced is not None
    assert shape is not None
    space = [n for n, axis in enumerate(merge.home.axes) if axis and axis[0].kind == "s"]
    fixed = "static" in merge.notes or any(
        isinstance(n.op, ir.Reshape) and not _free_of_space(graph, n, shape, space) for n in region
    )
    works = [node_work(graph, node) for node in region]
    cheap = sum(w.macs for w in works if w is not None) <= _CHEAP
    if fixed or not space or cheap:
        yield traced
    if fixed or not space:
        return
    reach = twin.reach if twin is not None else [sum(_reach(n.op) for n in region)] * len(space)
    for extra in (1, 2, 4):
        small = list(traced)
        small[0] = 2 if shape[0] != 1 and extra == 1 else min(1, traced[0])
        for number, axis in enumerate(space):
            small[axis] = reach[number] + extra + number
        yield tuple(small)


def _free_of_space(graph: ir.Graph, node: ir.Node, shape: Sequence[Dim], space: Sequence[int]) -> bool:
    """Whether a reshape's sizes follow from symbols when the root's size changes."""
    value = graph.values[node.output]
    return value.shape is not None and all(isinstance(shape[axis], str) for axis in space)


def _reach(op: ir.Op) -> int:
    match op:
        case ir.Conv() | ir.ConvTranspose():
            return max(
                (
                    int(d) * (int(k) - 1) + int(s)
                    for d, k, s in zip(op.dilations, op.weight.shape[2:], op.strides, strict=True)
                )
            )
        case ir.AvgPool():
            return max(op.kernel)
        case ir.SpaceToDepth():
            return op.block
    return 1


def replay(graph: ir.Graph, merge: Merge, ops: Mapping[int, ir.Op], region: Sequence[ir.Node]) -> dict[str, State]:
    """Run the algebra over a region again with other operators (by ``id`` of the node).

    Raises:
        NotFusibleError: with these operators it is not one convolution.
    """
    shape = graph.values[merge.root].shape
    assert shape is not None
    states = {merge.root: start(shape, merge.home)}
    for node in region:
        op = ops.get(id(node), node.op)
        states[node.output] = transfer(op, [states[n] for n in node.inputs], graph.values[node.output].shape)
    return states


@dataclass(frozen=True, eq=False)
class Twin:
    """A merge with dyadic weights: the graph's own nodes, and the nodes that the algebra makes of them."""

    values: ir.Graph
    original: list[ir.Node]
    fused: list[ir.Node]
    reach: list[int]

    def agrees(self, merge: Merge, shape: tuple[int, ...], rng: np.random.Generator) -> bool | None:
        """Whether both agree in every bit; None if numbers grow beyond what is exact."""
        feeds = {merge.root: torch.from_numpy(rng.integers(-4, 5, shape).astype(np.float64))}
        wanted = execute_region(self.values, self.original, feeds, merge.targets, shape)
        if any(float(w.abs().max()) > 2.0**44 for w in wanted.values() if w.numel()):
            return None
        got = execute_region(self.values, self.fused, feeds, merge.targets, shape)
        return all(torch.equal(got[t], wanted[t]) for t in merge.targets)


def _twin(
    graph: ir.Graph, merge: Merge, region: Sequence[ir.Node], profile: Profile, rng: np.random.Generator
) -> Twin | None:
    """Put dyadic weights into a region and collapse it again; None if with these weights it does not collapse."""
    if isinstance(region[0].op, ir.ConvTranspose):
        return _absorbed(graph, region, rng)
    biases = "value" not in merge.notes
    ops = {id(node): dyadic(node.op, rng, biases) for node in region}
    try:
        states = replay(graph, merge, ops, region)
        near = (merge.root, *(node.output for node in region))
        root, values, nodes = graph.values[merge.root], {n: graph.values[n] for n in near}, list[ir.Node]()
        for target in merge.targets:
            here = merge.root
            steps = form(root, merge.home, states[target], graph.values[target], profile).steps
            for number, step in enumerate(steps):
                name = target if number == len(steps) - 1 else f"{target}:dyadic{number}"
                values.setdefault(name, ir.Value(name, step.shape, step.sizes))
                nodes.append(ir.Node(name, step.build(), (here,), name))
                here = name
    except NotFusibleError:
        return None
    axes = [
        max((states[t].lin.axes[n] for t in merge.targets), key=lambda a: a.hi - a.lo)
        for n in range(len(states[merge.root].lin.axes))
    ]
    reach = [a.hi - a.lo + 1 + 2 * a.stride for a in axes]
    swapped = [replace(node, op=ops[id(node)]) for node in region]
    return Twin(ir.Graph([], values, (), frozenset()), swapped, nodes, reach)


def _absorbed(graph: ir.Graph, region: Sequence[ir.Node], rng: np.random.Generator) -> Twin | None:
    """The twin of a transposed convolution and the scalings behind it."""
    swapped = [replace(node, op=dyadic(node.op, rng, biases=True)) for node in region]
    op, place = swapped[0].op, channels_first(graph.values[region[0].output].shape or ())
    assert isinstance(op, ir.ConvTranspose)
    assert place is not None
    reach = [int(k) + 2 for k in op.weight.shape[2:]]
    for node in swapped[1:]:
        assert isinstance(node.op, ir.Affine)
        op = absorb.folded(op, node.op, place)
    return Twin(graph, swapped, [ir.Node("twin", op, region[0].inputs, region[-1].output)], reach)


def dyadic(op: ir.Op, rng: np.random.Generator, biases: bool) -> ir.Op:
    """The operator with small integers for weights; without ``biases``, with zeros where constants are added."""

    def kernel(array: Array, fan_in: int) -> Array:
        weights = rng.integers(1, 4, array.shape) * rng.choice([-1.0, 1.0], array.shape)
        return np.asarray(weights * (rng.random(array.shape) < min(1.0, 24 / fan_in)))

    def term(array: Array | None) -> Array | None:
        if array is None:
            return None
        return rng.integers(-8, 9, array.shape).astype(np.float64) if biases else np.zeros_like(array)

    match op:
        case ir.Conv() | ir.ConvTranspose():
            return replace(op, weight=kernel(op.weight, int(np.prod(op.weight.shape[1:]))), bias=term(op.bias))
        case ir.Linear():
            return replace(op, weight=kernel(op.weight, len(op.weight)), bias=term(op.bias))
        case ir.Affine():
            factor = (
                None
                if op.factor is None
                else np.asarray(rng.choice([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0], op.factor.shape))
            )
            return replace(op, factor=_like(factor, op.factor), term=_like(term(op.term), op.term))
        case ir.Sum():
            return replace(op, factors=tuple(float(f) if f in (1.0, -1.0) else 0.5 for f in op.factors))
        case ir.Pad():
            return op if biases else replace(op, value=0.0)
        case ir.Border():
            return op if biases else replace(op, value=np.zeros_like(op.value))
        case ir.AvgPool():
            return replace(op, norm=1.0) if op.count_pad or not any(map(any, op.pads)) else op
    return op


def _like(array: Array | None, original: Array | None) -> Array | None:
    """Keep constant what was constant along an axis: a constant that may be folded only because it repeats."""
    if array is None or original is None or original.ndim == 0:
        return array
    for axis in range(original.ndim):
        first = original.take([0], axis=axis)
        if original.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, original.shape), original):
            array = np.array(np.broadcast_to(array.take([0], axis=axis), original.shape))
    return array
