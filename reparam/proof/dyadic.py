"""A merge with dyadic weights: small integers and powers of two, on which float64 makes no rounding error.

The algebra collapses it again, from nothing but the operators, so that a rule that is wrong shows in the bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from attn_export.reparam import ir
from attn_export.reparam.algebra.linconv import BORDER, NotFusibleError
from attn_export.reparam.planning.cost import CostProfile
from attn_export.reparam.planning.emit import lower
from attn_export.reparam.planning.plan import Merge
from attn_export.reparam.proof.region import execute_region, replay
from attn_export.types import Array


@dataclass(frozen=True, eq=False)
class DyadicCheck:
    """A merge with dyadic weights: the graph's own nodes, and the nodes that the algebra makes of them."""

    values: ir.Graph
    original: list[ir.Node]
    fused: list[ir.Node]
    reach: list[int]

    def agrees(self, merge: Merge, shape: tuple[int, ...], rng: np.random.Generator) -> bool | None:
        """Whether both agree in every bit; None if numbers grow beyond what is exact."""
        feeds = {merge.root: torch.from_numpy(rng.integers(-4, 5, shape).astype(np.float64))}
        expected = execute_region(self.values, self.original, feeds, merge.targets, shape)
        if any(float(w.abs().max()) > 2.0**44 for w in expected.values() if w.numel()):
            return None
        got = execute_region(self.values, self.fused, feeds, merge.targets, shape)
        return all(torch.equal(got[t], expected[t]) for t in merge.targets)


def dyadic_check_of(
    graph: ir.Graph, merge: Merge, region: Sequence[ir.Node], profile: CostProfile, rng: np.random.Generator
) -> DyadicCheck | None:
    """Put dyadic weights into a region and collapse it again; None if with these weights it does not collapse."""
    biases = "value" not in merge.notes or BORDER in merge.notes  # with a map, no coincidence is needed
    ops = {id(node): dyadic(node.op, rng, biases) for node in region}
    try:
        states = replay(graph, merge, ops, region)
        near = (merge.root, *(node.output for node in region))
        root, values, nodes = graph.values[merge.root], {n: graph.values[n] for n in near}, list[ir.Node]()
        for target in merge.targets:
            here = merge.root
            steps = lower(root, merge.root_layout, states[target], graph.values[target], profile).steps
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
    return DyadicCheck(ir.Graph([], values, (), frozenset()), swapped, nodes, reach)


def dyadic(op: ir.Op, rng: np.random.Generator, biases: bool) -> ir.Op:
    """Put small integers into an operator; without ``biases``, zeros where constants are added."""

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
