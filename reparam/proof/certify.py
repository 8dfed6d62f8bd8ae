"""Prove a collapse: bit equality under dyadic weights, then float64 with the real ones, over everything.

With small integers and powers of two for weights and inputs float64 makes no rounding error at all, so un-fused and
fused must agree in every bit of the whole output: a tap, a border or a channel in the wrong place cannot hide. Then
the real weights, by the largest error over everything; never a mean, never the interior.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from attn_export.reparam import ir
from attn_export.reparam.planning.cost import CostProfile, node_work
from attn_export.reparam.planning.plan import LARGEST, Merge
from attn_export.reparam.proof.dyadic import DyadicCheck, dyadic_check_of
from attn_export.reparam.proof.region import between, execute_region
from attn_export.reparam.types import Dim

#: Constants written in float32 (a padding that equals a bias up to rounding) let a site agree to this only.
ROUNDED_BOUND = 2.0**-18
#: A region of fewer multiply-accumulates than this is also run at the traced size.
_CHEAP = 5e7
#: Elements of an input that is drawn: a kernel may reach so far that two of its windows fill no memory.
_LARGEST = 1 << 28


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


def prove(graph: ir.Graph, merge: Merge, profile: CostProfile, seed: int = 0) -> Proof:
    """Compare a merge's nodes with the original ones on the traced size and, where sizes do not matter, two others."""
    rng = np.random.default_rng(seed)
    region = between(graph, merge.root, merge.targets)
    rounded, sizes = "rounding" in merge.notes, list[tuple[int, ...]]()
    if _overflows(graph, merge):
        return Proof(None, float("inf"), ())
    dyadic = dyadic_check_of(graph, merge, region, profile, rng)
    structure, worst = None, 0.0
    for shape in _shapes(graph, merge, region, dyadic):
        if prod(shape) > _LARGEST:
            continue
        try:
            feeds = {merge.root: torch.from_numpy(rng.standard_normal(shape))}
            expected = execute_region(graph, region, feeds, merge.targets, shape)
        except (RuntimeError, ValueError):
            continue  # the original does not run at this size
        sizes.append(shape)
        try:
            got = execute_region(graph, merge.added, feeds, merge.targets, shape)
            worst = _worst(worst, *(relative_error(got[t], expected[t]) for t in merge.targets))
            exact = None if dyadic is None else dyadic.agrees(merge, shape, rng)
        except (RuntimeError, ValueError):
            return Proof(False, float("nan"), tuple(sizes), rounded)
        if exact is not None:
            structure = exact and structure is not False
    return Proof(structure, worst if sizes else float("nan"), tuple(sizes), rounded)


def _overflows(graph: ir.Graph, merge: Merge) -> bool:
    """Whether a new constant does not fit the precision in which the graph would store it."""
    largest = LARGEST.get(graph.values[merge.root].dtype, float("inf"))
    arrays = [
        a for node in merge.added for a in vars(node.op).values() if isinstance(a, np.ndarray) and a.dtype == float
    ]
    return any(float(np.abs(a).max(initial=0)) > largest for a in arrays)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Return the largest error over everything, relative to the largest magnitude; infinite where shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    difference = (got - expected).abs().max()
    return float(difference / expected.abs().max().clamp_min(1e-300)) if difference else 0.0


def _worst(*errors: float) -> float:
    return max(errors, key=lambda e: (e != e, e))


def _shapes(
    graph: ir.Graph, merge: Merge, region: Sequence[ir.Node], dyadic: DyadicCheck | None
) -> Iterator[tuple[int, ...]]:
    """Yield sizes to try: small ones where the algebra does not depend on sizes, and the traced one if it is cheap."""
    traced = graph.values[merge.root].sizes
    shape = graph.values[merge.root].shape
    assert traced is not None
    assert shape is not None
    space = [n for n, axis in enumerate(merge.root_layout.axes) if axis and axis[0].kind == "s"]
    fixed = not space or _is_fixed(graph, merge, region, space)
    if fixed or _is_cheap(graph, region):
        yield traced
    if fixed:
        return
    reach = dyadic.reach if dyadic is not None else [sum(_reach(n.op) for n in region)] * len(space)
    for extra in (1, 2, 4):
        small = list(traced)
        small[0] = 2 if shape[0] != 1 and extra == 1 else min(1, traced[0])
        for number, axis in enumerate(space):
            small[axis] = reach[number] + extra + number
        yield tuple(small)


def _is_fixed(graph: ir.Graph, merge: Merge, region: Sequence[ir.Node], space: Sequence[int]) -> bool:
    """Whether the merge holds at the traced size only, or its reshapes are known there only."""
    shape = graph.values[merge.root].shape or ()
    reshapes = [node for node in (*region, *merge.added) if isinstance(node.op, ir.Reshape)]
    return "static" in merge.notes or any(not _free_of_space(graph, node, shape, space) for node in reshapes)


def _is_cheap(graph: ir.Graph, region: Sequence[ir.Node]) -> bool:
    works = [node_work(graph, node) for node in region]
    return sum(w.macs for w in works if w is not None) <= _CHEAP


def _free_of_space(graph: ir.Graph, node: ir.Node, shape: Sequence[Dim], space: Sequence[int]) -> bool:
    """Whether a reshape's sizes follow from symbols when the root's size changes."""
    value = graph.values.get(node.output)
    return value is not None and value.shape is not None and all(isinstance(shape[axis], str) for axis in space)


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
