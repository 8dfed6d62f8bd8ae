"""Operator → algebra: what each operator of the small graph does to values that are one convolution of a root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from attn_export.reparam import ir
from attn_export.reparam.algebra import compose, layout, linconv, positions, sums, toeplitz, upsample
from attn_export.reparam.algebra.layout import Layout, by_channel
from attn_export.reparam.algebra.linconv import LinConv, NotFusibleError
from attn_export.reparam.algebra.state import State
from attn_export.reparam.types import Dim
from attn_export.types import Array, Ints

__all__ = ["State", "start", "transfer"]


def start(shape: Sequence[Dim], root_layout: Layout, *, border_maps: bool = False) -> State:
    """Take the root as a convolution of itself; with ``border_maps``, what follows may have a border map."""
    space = [a.size if isinstance(a.size, int) else None for a in root_layout.atoms if a.kind == "s"]
    lin = toeplitz.begun(linconv.identity(prod(root_layout.channel_sizes), space, border_maps=border_maps), root_layout)
    return State(lin, root_layout.resized(shape))


def transfer(op: ir.Op, states: Sequence[State], shape: tuple[Dim, ...] | None) -> State:
    """Apply an operator. ``shape`` is the shape of its output as far as it is known.

    Raises:
        NotFusibleError: the result is not one convolution of the root, or only for some sizes that are not fixed.
    """
    state = states[0]
    if any(s.upsampling for s in states):
        return upsample.through(op, states, shape)
    match op:
        case ir.Sum():
            result = _sum(op, states)
        case ir.Concat():
            result = _concat(op, states)
        case ir.Reshape() | ir.Flatten():
            if shape is None:
                raise NotFusibleError("it is reshaped to a shape that is not known")
            result = State(state.lin, layout.reshape(state.layout, shape))
        case ir.DepthToSpace() | ir.Upsample() | ir.ConvTranspose():
            return upsample.begin(op, state)
        case _:
            result = _transfer_one(op, state)
    return State(result.lin, result.layout.resized(shape), result.upsampling)


def _transfer_one(op: ir.Op, state: State) -> State:
    """Apply an operator of one input that says itself what it makes of a shape."""
    match op:
        case ir.Conv() if toeplitz.spans(op, state):
            return toeplitz.conv(op, state)
        case ir.Conv():
            return toeplitz.marked(_conv(op, state))
        case ir.Linear():
            return toeplitz.marked(_linear(op, state))
        case ir.Affine():
            return _affine(op, state)
        case ir.Pad():
            return _pad(op, state)
        case ir.Border():
            return _border(op, state)
        case ir.Slice() | ir.Take():
            return _select(op, state)
        case ir.AvgPool():
            return _pool(op, state)
        case ir.Transpose():
            moved, index = layout.transpose(state.layout, op.perm)
            return State(state.lin if index is None else linconv.rows(state.lin, index), moved)
        case ir.SpaceToDepth():
            return _space_to_depth(op, state)
    kind = op.kind if isinstance(op, ir.Opaque) else type(op).__name__
    raise NotFusibleError(f"{kind} is not linear, or not known to be")


def _sum(op: ir.Sum, states: Sequence[State]) -> State:
    first = states[0].layout
    if any(not s.layout.same(first) for s in states):
        raise NotFusibleError("branches are summed in different layouts")
    scaled = [_scaled(s.lin, f) for s, f in zip(states, op.factors, strict=True)]
    return State(sums.add(scaled) if len(scaled) > 1 else scaled[0], first)


def _scaled(lin: LinConv, factor: float) -> LinConv:
    return lin if factor == 1 else linconv.scale(lin, np.full(lin.outputs, factor))


def _canonical(state: State, rank: int) -> list[int | None]:
    """Check that a tensor is ``(b, c, *space)``; gives which spatial axis each of its axes is."""
    axes = state.layout.axes
    if len(axes) != rank or any(a.kind != "b" and a.size != 1 for a in axes[0]):
        raise NotFusibleError("its first axis is not the batch alone")
    if not state.layout.is_channel(1) or state.layout.width(1) != state.lin.outputs:
        raise NotFusibleError("its second axis does not hold the channels")
    return [state.layout.spatial(n) for n in range(2, rank)]


def _spatial(lin: LinConv, dims: Sequence[int | None], per_axis: Sequence[int], default: int) -> list[int]:
    """Spread numbers given by tensor axis over the root's spatial axes."""
    result = [default] * len(lin.axes)
    for dim, number in zip(dims, per_axis, strict=True):
        if dim is not None:
            result[dim] = number
        elif number != default:
            raise NotFusibleError("it works along an axis of size 1 that is not a spatial axis of the root")
    return result


def _padded(state: State, dims: Sequence[int | None], pads: Sequence[tuple[int, int]], value: float | Array) -> LinConv:
    lin = state.lin
    for dim, (left, right) in zip(dims, pads, strict=True):
        if left or right:
            if dim is None:
                raise NotFusibleError("it pads an axis of size 1 that is not a spatial axis of the root")
            lin = linconv.pad(lin, dim, left, right, value)
    return lin


def _kernel(lin: LinConv, dims: Sequence[int | None], weight: Array) -> Array:
    """Bring a kernel's axes into the order of the root's spatial axes."""
    sizes = [1] * len(lin.axes)
    order: list[int] = []
    for axis, dim in enumerate(dims):
        if dim is None:
            if weight.shape[axis + 2] != 1:
                raise NotFusibleError(
                    "its kernel reaches along an axis of size 1 that is not a spatial axis of the root"
                )
            continue
        sizes[dim] = weight.shape[axis + 2]
        order.append(dim)
    squeezed = weight.reshape(*weight.shape[:2], *(weight.shape[n + 2] for n, d in enumerate(dims) if d is not None))
    return squeezed.transpose(0, 1, *(2 + np.argsort(order))).reshape(*weight.shape[:2], *sizes)


def _conv(op: ir.Conv, state: State) -> State:
    dims = _canonical(state, op.weight.ndim)
    lin = _padded(state, dims, op.pads, 0.0)
    result = compose.conv(
        lin,
        _kernel(lin, dims, op.weight),
        op.bias,
        strides=_spatial(lin, dims, op.strides, 1),
        dilations=_spatial(lin, dims, op.dilations, 1),
        groups=op.groups,
    )
    return State(result, state.layout.with_width(1, len(op.weight)))


def _linear(op: ir.Linear, state: State) -> State:
    last = len(state.layout.axes) - 1
    if not state.layout.is_channel(last) or state.layout.width(last) != state.lin.outputs:
        raise NotFusibleError("its last axis does not hold the channels alone")
    if state.lin.outputs != len(op.weight):
        raise NotFusibleError("a matrix of another height")
    weight = op.weight.T.reshape(*op.weight.T.shape, *(1,) * len(state.lin.axes))
    return State(compose.conv(state.lin, weight, op.bias), state.layout.with_width(last, op.weight.shape[1]))


def _affine(op: ir.Affine, state: State) -> State:
    lin = state.lin
    if op.factor is not None:
        lin = linconv.scale(lin, by_channel(op.factor, state.layout, op.axis))
    if op.term is not None:
        lin = _shifted(op.term, op.axis, State(lin, state.layout))
    return State(lin, state.layout)


def _shifted(term: Array, axis: int | None, state: State) -> LinConv:
    """Add a constant; one that differs between positions becomes a border map."""
    lin, lengths = state.lin, state.lin.lengths
    try:
        return linconv.shift(lin, by_channel(term, state.layout, axis))
    except NotFusibleError as error:
        if not lengths:
            raise
        values = positions.read(term, state.layout, axis, lengths)
        if not lin.border_maps:
            raise NotFusibleError(error.reason, f"{error.remedy}; or allow a border map with --border-maps") from None
        return linconv.with_border_map(lin, values)


def _renumbered(state: State, axis: int, pick: Callable[[Ints], Ints]) -> State:
    """Select along a channel axis."""
    before, along, after = state.layout.along(axis)
    index = pick(np.arange(before * along * after).reshape(before, along, after))
    return State(linconv.rows(state.lin, index.reshape(-1)), state.layout.with_width(axis, index.shape[1]))


def _select(op: ir.Slice | ir.Take, state: State) -> State:
    axis = op.axis
    if state.layout.is_channel(axis):
        if isinstance(op, ir.Take):
            index = op.index
            return _renumbered(state, axis, lambda n: n[:, index])
        cut = slice(op.start, op.stop, op.step)
        if len(range(*cut.indices(state.layout.width(axis)))) == 0:
            raise NotFusibleError("an empty slice")
        return _renumbered(state, axis, lambda n: n[:, cut])
    dim = state.layout.spatial(axis)
    if dim is None or isinstance(op, ir.Take) or op.step < 1:
        raise NotFusibleError("positions or batch items are selected one by one")
    return State(_cropped(op, state.lin, dim), state.layout)


def _cropped(op: ir.Slice, lin: LinConv, dim: int) -> LinConv:
    """Slice along space: a crop, then a stride."""
    size = lin.axes[dim].size
    length = None if size is None else lin.axes[dim].length(size)
    if op.start < 0 or (op.stop is not None and op.stop >= 0):
        if length is None:
            if op.start < 0 or (op.stop is not None and op.stop < 2**31 - 1):
                raise NotFusibleError("a slice counted from the other end of a dynamic axis", "export a fixed size")
            left, right = op.start, 0
        else:
            start, stop, _ = slice(op.start, op.stop, 1).indices(length)
            if stop <= start:
                raise NotFusibleError("an empty slice")
            left, right = start, length - stop
    else:
        left, right = op.start, -(op.stop or 0)
    result = linconv.pad(lin, dim, -left, -right) if left or right else lin
    if op.stop is not None and op.stop >= 0 and right:
        result = replace(result, notes=result.notes | {"static"})
    return linconv.stride(result, dim, op.step) if op.step > 1 else result


def _concat(op: ir.Concat, states: Sequence[State]) -> State:
    first = states[0].layout
    if not all(s.layout.is_channel(op.axis) for s in states):
        raise NotFusibleError("pieces are joined along space or batch")
    widths = [s.layout.width(op.axis) for s in states]
    joined = first.with_width(op.axis, sum(widths))
    if any(not s.layout.with_width(op.axis, sum(widths)).same(joined) for s in states):
        raise NotFusibleError("pieces are joined in different layouts")
    lin = sums.concat([s.lin for s in states])
    before, _, after = first.along(op.axis)
    blocks, offset = [], 0
    for width in widths:
        blocks.append(np.arange(before * width * after).reshape(before, width, after) + offset)
        offset += before * width * after
    return State(linconv.rows(lin, np.concatenate(blocks, axis=1).reshape(-1)), joined)


def _pad(op: ir.Pad, state: State) -> State:
    dims: list[int | None] = []
    pads: list[tuple[int, int]] = []
    for axis, amounts in enumerate(op.pads):
        if amounts != (0, 0):
            if state.layout.width(axis) != 1:
                raise NotFusibleError("channels are padded", "pad space only")
            dims.append(state.layout.spatial(axis))
            pads.append(amounts)
    return State(_padded(state, dims, pads, op.value), state.layout)


def _border(op: ir.Border, state: State) -> State:
    """Crop what is overwritten, and pad with what is written."""
    dims = _canonical(state, len(op.ring) + 2)
    crops = [(p[0] - r[0], p[1] - r[1]) for p, r in zip(op.pads, op.ring, strict=True)]
    cropped = State(_padded(state, dims, crops, 0.0), state.layout)
    return State(_padded(cropped, dims, op.ring, op.value), state.layout)


def _pool(op: ir.AvgPool, state: State) -> State:
    dims = _canonical(state, len(op.kernel) + 2)
    if not op.count_pad and any(left or right for left, right in op.pads):
        raise NotFusibleError(
            "average pooling divides by fewer positions at the border", "count the padding (count_include_pad)"
        )
    lin = _padded(state, dims, op.pads, 0.0)
    notes = set[str]()
    if op.ceil:
        for dim, kernel, step in zip(dims, op.kernel, op.strides, strict=True):
            size = None if dim is None else lin.axes[dim].size
            if dim is None or step == 1:
                continue
            if size is None:
                raise NotFusibleError(
                    "ceil_mode is exact for some sizes only, and this axis is dynamic", "ceil_mode=False"
                )
            if (lin.axes[dim].length(size) - kernel) % step:
                raise NotFusibleError("with ceil_mode the last window hangs over the border", "ceil_mode=False")
            notes.add("static")
    weight = np.full((lin.outputs, 1, *op.kernel), 1.0 / (op.norm or float(np.prod(op.kernel))))
    result = compose.conv(
        lin,
        _kernel(lin, dims, weight),
        strides=_spatial(lin, dims, op.strides, 1),
        groups=lin.outputs,
    )
    return State(replace(result, notes=result.notes | notes), state.layout)


def _space_to_depth(op: ir.SpaceToDepth, state: State) -> State:
    """Pixel unshuffle is a convolution with one-hot kernels and stride ``block``."""
    dims = _canonical(state, 4)
    r, channels = op.block, state.lin.outputs
    weight = np.zeros((channels, r * r, 1, r, r))
    for dy in range(r):
        for dx in range(r):
            weight[:, dy * r + dx, 0, dy, dx] = 1
    lin = compose.conv(
        state.lin,
        _kernel(state.lin, dims, weight.reshape(-1, 1, r, r)),
        strides=_spatial(state.lin, dims, (r, r), 1),
        groups=channels,
    )
    if not op.crd:
        lin = linconv.rows(lin, np.arange(channels * r * r).reshape(channels, r * r).T.reshape(-1))
    return State(lin, state.layout.with_width(1, channels * r * r))
