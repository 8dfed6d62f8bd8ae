"""Operators that make several positions of one, as a convolution on the coarse grid and a rearrangement behind it.

    y[s·q + p] = Σ_k W[k] · x̃[q + j]     with s·j = p + left − d·k          transposed convolution, phase p

On the coarse grid each phase of a transposed convolution is an ordinary convolution, so the conditions on padding are
those of the algebra: a bias before it, where it reaches over the border, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from attn_export.reparam import ir
from attn_export.reparam.algebra import compose, linconv, sums
from attn_export.reparam.algebra.layout import by_channel, channels_first
from attn_export.reparam.algebra.linconv import LinConv, NotFusibleError
from attn_export.reparam.algebra.state import State, Upsampling
from attn_export.reparam.types import Dim
from attn_export.types import Array, Ints


def begin(op: ir.DepthToSpace | ir.Upsample | ir.ConvTranspose, state: State) -> State:
    """Enlarge a value.

    Raises:
        NotFusibleError: it is no ``(b, c, *space)``, or it would be padded where its bias is not zero.
    """
    lin, rank = state.lin, len(state.lin.axes)
    if len(state.layout.axes) != rank + 2 or not state.layout.is_channels_first(lin.outputs):
        raise NotFusibleError("it enlarges a tensor that is not (batch, channels, space)", "keep space apart and last")
    match op:
        case ir.Upsample():
            return State(lin, state.layout, Upsampling("repeat", op.factors, (0,) * rank))
        case ir.DepthToSpace():
            r = op.block
            if not op.crd:  # (r, r, c) → (c, r, r)
                lin = linconv.rows(lin, np.arange(lin.outputs).reshape(r * r, -1).T.reshape(-1))
            return State(lin, state.layout, Upsampling("shuffle", (r, r), (0, 0)))
        case ir.ConvTranspose():
            return _transposed(op, state)


def _transposed(op: ir.ConvTranspose, state: State) -> State:
    lin = state.lin
    places, trim = list[Ints](), list[int]()
    for dim, (size, step, gap, (left, right), extra) in enumerate(
        zip(op.weight.shape[2:], op.strides, op.dilations, op.pads, op.extra, strict=True)
    ):
        reads = [(p, k, (p + left - gap * k) // step) for p in range(step) for k in range(size)
                 if (p + left - gap * k) % step == 0]  # fmt: skip
        first, last = min(j for _, _, j in reads), max(j for _, _, j in reads)
        place = np.full((step, last - first + 1), size)  # where no tap falls: a zero behind the kernel
        for p, k, j in reads:
            place[p, j - first] = k
        places.append(place)
        more = gap * (size - 1) + 1 + extra - step - left - right  # fine positions beyond step · coarse ones
        longer = -(-more // step)
        trim.append(step * longer - more)
        lin = linconv.pad(lin, dim, -first, longer + last)
    inputs, width = op.weight.shape[:2]
    members = inputs // op.groups
    padded = np.pad(op.weight, ((0, 0), (0, 0), *((0, 1),) * len(places)))
    rank = len(places)
    grid: Any = (slice(None), slice(None), *np.ix_(*(p.reshape(-1) for p in places)))
    picked = padded[grid]
    split = picked.reshape(op.groups, members, width, *(n for p in places for n in p.shape))
    phases, taps = [3 + 2 * n for n in range(rank)], [4 + 2 * n for n in range(rank)]
    weight = split.transpose(0, 2, *phases, 1, *taps)
    count = int(np.prod(op.strides))
    weight = np.ascontiguousarray(weight).reshape(op.groups * width * count, members, *(p.shape[1] for p in places))
    bias = None if op.bias is None else np.repeat(op.bias, count)
    made = compose.conv(lin, weight, bias, groups=op.groups)
    layout = state.layout.with_width(1, made.outputs)
    return State(made, layout, Upsampling("transposed", op.strides, tuple(trim)))


def through(op: ir.Op, states: Sequence[State], shape: tuple[Dim, ...] | None) -> State:
    """Apply an operator to enlarged values by applying it before they are enlarged.

    Raises:
        NotFusibleError: it tells positions of one channel apart.
    """
    state = states[0]
    upsampling, lin = state.upsampling, state.lin
    if upsampling is None or any(s.upsampling != upsampling for s in states):
        raise NotFusibleError("branches are enlarged in different ways", "enlarge the sum, once")
    match op:
        case ir.Sum():
            scaled = [linconv.scale(s.lin, np.full(s.lin.outputs, f)) if f != 1 else s.lin
                      for s, f in zip(states, op.factors, strict=True)]  # fmt: skip
            lin = sums.add(scaled) if len(scaled) > 1 else scaled[0]
        case ir.Affine():
            place = channels_first(shape or (None, lin.outputs // upsampling.phases, *(None,) * len(lin.axes)))
            assert place is not None
            if op.factor is not None:
                lin = linconv.scale(lin, np.repeat(by_channel(op.factor, place, op.axis), upsampling.phases))
            if op.term is not None:
                lin = linconv.shift(lin, np.repeat(by_channel(op.term, place, op.axis), upsampling.phases))
        case ir.Concat(axis=1):
            lin = sums.concat([s.lin for s in states])
        case ir.Slice(axis=1):
            lin = _picked(
                lin, np.arange(lin.outputs // upsampling.phases)[op.start : op.stop : op.step], upsampling.phases
            )
        case ir.Take(axis=1):
            lin = _picked(lin, op.index, upsampling.phases)
        case ir.Conv() if _pointwise(op):
            lin = _mixed(lin, op, upsampling.phases)
        case _:
            kind = op.kind if isinstance(op, ir.Opaque) else type(op).__name__
            raise NotFusibleError(
                f"{kind} after an enlargement tells positions of one channel apart", "keep it, or fuse before and after"
            )
    return State(lin, state.layout.with_width(1, lin.outputs), upsampling)


def _pointwise(op: ir.Conv) -> bool:
    return set(op.weight.shape[2:]) | set(op.strides) == {1} and not any(map(any, op.pads))


def _picked(lin: LinConv, index: Ints, phases: int) -> LinConv:
    if not len(index):
        raise NotFusibleError("an empty slice")
    return linconv.rows(lin, (index[:, None] * phases + np.arange(phases)).reshape(-1))


def _mixed(lin: LinConv, op: ir.Conv, phases: int) -> LinConv:
    """Apply a 1×1 on fine channels: the same 1×1 on each phase."""
    by_phase = linconv.rows(lin, np.arange(lin.outputs).reshape(-1, phases).T.reshape(-1))
    weight = np.concatenate([op.weight.reshape(*op.weight.shape[:2], *(1,) * len(lin.axes))] * phases)
    bias = None if op.bias is None else np.tile(op.bias, phases)
    mixed = compose.conv(by_phase, weight, bias, groups=op.groups * phases)
    return linconv.rows(mixed, np.arange(mixed.outputs).reshape(phases, -1).T.reshape(-1))


def transposed(lin: LinConv, upsampling: Upsampling) -> ir.ConvTranspose:
    """Build the transposed convolution that an upsampled value is.

    Raises:
        NotFusibleError: the phases have different biases, or the coarse convolution has a stride.
    """
    bias = lin.bias.reshape(-1, upsampling.phases)
    if not (bias == bias[:, :1]).all():
        raise NotFusibleError("the bias differs between the phases of a transposed convolution", "drop the inner bias")
    if any(axis.stride != 1 for axis in lin.axes):
        raise NotFusibleError("a strided convolution under a transposed one")
    kernel = lin.kernel()
    classes = lin.src[lin.grp]
    groups = _groups(classes, lin.channels, upsampling.phases)
    width, members = len(bias) // groups, lin.channels // groups
    first = [min(0, -axis.hi * step) for axis, step in zip(lin.axes, upsampling.factors, strict=True)]
    last = [step - 1 - axis.lo * step for axis, step in zip(lin.axes, upsampling.factors, strict=True)]
    fine: Array = np.zeros((lin.channels + 1, width, *(b - a + 1 for a, b in zip(first, last, strict=True))))
    for number, phase in enumerate(product(*map(range, upsampling.factors))):
        place = [np.array([p - step * t - start for t in axis.taps])
                 for p, step, axis, start in zip(phase, upsampling.factors, lin.axes, first, strict=True)]  # fmt: skip
        for output in range(len(bias)):
            row = output * upsampling.phases + number
            fine[np.ix_(classes[row], np.full(1, output % width), *place)] += kernel[row][:, None]
    fine = fine[: members * groups]
    pads, extra, gaps, cuts = [], [], [], []
    for n, (axis, step, start) in enumerate(zip(lin.axes, upsampling.factors, first, strict=True)):
        others = tuple(m for m in range(fine.ndim) if m != n + 2)
        used = np.flatnonzero(np.abs(fine).max(axis=others)) + start
        if not len(used) or used[0] > 0:  # a kernel of zeros may lie before the first pixel altogether
            used = np.concatenate([np.array([min(0, last[n])], dtype=np.int64), used])
        gap = math.gcd(*np.diff(used).tolist()) if len(used) > 1 else 1
        right = int(used[-1]) + 1 - step * (axis.extent + 2) + upsampling.trim[n]
        if -right >= step:
            raise NotFusibleError("a transposed convolution whose output has a border that it does not reach")
        pads.append((-int(used[0]), max(0, right)))
        extra.append(max(0, -right))
        gaps.append(gap)
        cuts.append(np.arange(used[0] - start, used[-1] - start + 1, gap))
    cut: Any = (slice(None), slice(None), *np.ix_(*cuts))
    weight = np.ascontiguousarray(fine[cut])
    numbers = np.ascontiguousarray(bias[:, 0]) if lin.biased else None
    return ir.ConvTranspose(weight, numbers, upsampling.factors, tuple(gaps), groups, tuple(pads), tuple(extra))


def _groups(classes: Ints, channels: int, phases: int) -> int:
    """Return the largest number of groups that the support allows."""
    outputs = len(classes) // phases
    both = int(np.gcd(outputs, channels))
    least, most = np.where(classes < 0, channels, classes).min(axis=1), classes.max(axis=1)
    for groups in (g for g in range(both, 0, -1) if both % g == 0):
        block, width = np.arange(len(classes)) // (len(classes) // groups), channels // groups
        if np.all(least >= block * width) and np.all(most < (block + 1) * width):
            return groups
    raise AssertionError("one group always holds everything")
