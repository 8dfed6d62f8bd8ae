"""RepMLP's merge: a convolution beside a matrix over all numbers of a map is part of that matrix (Ding et al. 2021).

    M[(o, q), (c, p)] = W[o, c, t]   where p = s·q + d·t − left       b c·h·w → b o·h'·w'

The map is read as channels only, so that the algebra needs nothing else: flattening permutes channels, a matrix is a
1×1, and each channel, row and column has its own number. It holds for one size, and is worth it only where a matrix
over the map is there anyway: only such roots are read so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from attn_export.reparam import ir
from attn_export.reparam.algebra import border_map, compose
from attn_export.reparam.algebra.border_map import Lazy
from attn_export.reparam.algebra.layout import Atom, Layout
from attn_export.reparam.algebra.linconv import LinConv, NotFusibleError
from attn_export.reparam.algebra.state import State
from attn_export.types import Array

#: A matrix of more numbers than this (2 GB in float64) is not built.
MOST = 1 << 28


def flat(graph: ir.Graph, value: ir.Value) -> Layout | None:
    """Read a map as channels only, if a matrix over all of it follows; None where there is none."""
    shape = value.shape
    if shape is None or len(shape) < 3:
        return None
    numbers = [n for n in shape[1:] if isinstance(n, int)]
    if len(numbers) < len(shape) - 1 or prod(numbers[1:]) == 1:
        return None
    for node in graph.consumers.get(value.name, []):
        if isinstance(node.op, ir.Reshape) and _connects(graph, node.output, prod(numbers)):
            return Layout(((Atom("b", 0, shape[0]),), *((Atom("c", 0, n),) for n in numbers)))
    return None


def _connects(graph: ir.Graph, name: str, width: int) -> bool:
    shape = graph.values[name].shape
    whole = shape is not None and len(shape) > 1 and shape[1] == width and all(n == 1 for n in shape[2:])
    return whole and any(isinstance(n.op, ir.Conv | ir.Linear) for n in graph.consumers.get(name, []))


#: Notes of values in a map that is read as channels only: before a matrix over all of it was met, and from there on.
MAP, MATRIX = "map", "matrix over the map"


def begun(lin: LinConv, root_layout: Layout) -> LinConv:
    """Mark a root that is read as channels only."""
    return replace(lin, notes=frozenset({MAP})) if not lin.axes and len(root_layout.axes) > 2 else lin


def marked(state: State) -> State:
    """Remember that a matrix over the map was met; what has none in it is no business of this rule."""
    lin = state.lin
    return replace(state, lin=replace(lin, notes=lin.notes | {MATRIX})) if MAP in lin.notes else state


def spans(op: ir.Conv, state: State) -> bool:
    """Whether a convolution runs over a map that is read as channels only."""
    axes = state.layout.axes
    if len(axes) != op.weight.ndim or len(axes) < 3 or state.lin.axes:
        return False
    return all(state.layout.is_channel(n) for n in range(1, len(axes))) and any(
        state.layout.width(n) > 1 for n in range(2, len(axes))
    )


def conv(op: ir.Conv, state: State) -> State:
    """Write the convolution as a matrix.

    Raises:
        NotFusibleError: the matrix would be too large to build.
    """
    sizes = [state.layout.width(n) for n in range(2, op.weight.ndim)]
    lengths = [
        (n + left + right - d * (k - 1) - 1) // s + 1
        for n, (left, right), d, k, s in zip(sizes, op.pads, op.dilations, op.weight.shape[2:], op.strides, strict=True)
    ]
    outputs, members = op.weight.shape[:2]
    shape = outputs * prod(lengths), members * prod(sizes)
    if prod(shape) > MOST:
        raise NotFusibleError("as a matrix over the whole map it is too large", "fuse a map of fewer positions")

    def over(constant: Array, weight: Array) -> Array:
        """Convolve one map: what the matrix makes of its numbers."""
        values = constant.reshape(-1, *sizes)
        for dim, (left, right) in enumerate(op.pads):
            values = border_map.padded(values, dim, left, right, np.zeros(len(values)))
        return border_map.convolved(values, weight, op.strides, op.dilations, op.groups).reshape(-1)

    lin = state.lin
    offset, magnitude = over(lin.bias, op.weight), over(lin.bias_magnitude, np.abs(op.weight))
    if op.bias is not None:
        offset, magnitude = (
            a + np.repeat(b, prod(lengths)) for a, b in ((offset, op.bias), (magnitude, np.abs(op.bias)))
        )
    before = lin.border_map
    border = None if before is None else Lazy(lambda: over(before(), op.weight), before)
    constant = offset, magnitude, lin.biased or op.bias is not None, border
    made = compose.with_kernel(lin, shape, lambda: _matrix(op, sizes, lengths), constant, (), (), op.groups)
    layout = state.layout.with_width(1, outputs)
    made = replace(made, notes=made.notes | {"static"})
    for n, length in enumerate(lengths):
        layout = layout.with_width(n + 2, length)
    return State(made, layout)


def _matrix(op: ir.Conv, sizes: Sequence[int], lengths: Sequence[int]) -> Array:
    """Build the matrix of a map to the next: ``(outputs · lengths, inputs of a group · sizes)``."""
    outputs, members = op.weight.shape[:2]
    matrix = np.zeros((outputs, *lengths, members, *sizes))
    for tap in product(*map(range, op.weight.shape[2:])):
        reads = []
        for length, size, step, gap, t, (left, _) in zip(
            lengths, sizes, op.strides, op.dilations, tap, op.pads, strict=True
        ):
            places = step * np.arange(length) + gap * t - left
            inside = np.flatnonzero((places >= 0) & (places < size))
            reads.append([(int(q), int(places[q])) for q in inside])
        for pairs in product(*reads):
            to, of = [q for q, _ in pairs], [p for _, p in pairs]
            place: Any = (slice(None), *to, slice(None), *of)
            kernel: Any = (slice(None), slice(None), *tap)
            matrix[place] += op.weight[kernel]
    return matrix.reshape(outputs * prod(lengths), members * prod(sizes))
