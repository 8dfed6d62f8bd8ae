"""Composition with a kernel: a convolution of a value that is one convolution already is one convolution, exactly.

Taps add up, offset by offset; channels read are the union of what a group of rows reads. Built when somebody asks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attn_export.reparam.algebra import border_map
from attn_export.reparam.algebra.border_map import Lazy
from attn_export.reparam.algebra.linconv import Axis, LinConv, changed
from attn_export.types import Array, Ints


def conv(
    v: LinConv,
    weight: Array,
    bias: Array | None = None,
    *,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> LinConv:
    """Convolve without padding; always exact. ``weight`` is ``(outputs, inputs of a group, *taps)``."""
    outputs, width, sizes = weight.shape[0], weight.shape[1], weight.shape[2:]
    steps, gaps = tuple(strides or [1] * len(sizes)), tuple(dilations or [1] * len(sizes))
    offset, magnitude = np.zeros(outputs), np.zeros(outputs)
    if v.bias.any() or v.bias_magnitude.any():  # what stands at a root has none, and weights may be large
        total = weight.sum(axis=tuple(range(2, weight.ndim))).reshape(groups, outputs // groups, width)
        offset = np.einsum("goi,gi->go", total, v.bias.reshape(groups, width)).reshape(-1)
        magnitude = np.einsum("goi,gi->go", np.abs(total), v.bias_magnitude.reshape(groups, width)).reshape(-1)
    if bias is not None:
        offset, magnitude = offset + bias, magnitude + np.abs(bias)
    border = changed(v, lambda i: border_map.convolved(i, weight, steps, gaps, groups))
    constant = offset, magnitude, v.biased or bias is not None, border
    return with_kernel(v, weight.shape, lambda: weight, constant, steps, gaps, groups)


def with_kernel(
    v: LinConv,
    kernel: Sequence[int],
    weight_: Callable[[], Array],
    constant: tuple[Array, Array, bool, Lazy | None],
    steps: Sequence[int],
    gaps: Sequence[int],
    groups: int,
) -> LinConv:
    """Compose with a kernel of which the shape is known, and its numbers when they are asked for.

    ``constant`` is what the result adds: bias, bias magnitude, whether there is a bias, and border map.
    """
    outputs, width, *sizes = kernel
    axes, places = [], []
    for axis, size, step, dilation in zip(v.axes, sizes, steps, gaps, strict=True):
        reach = axis.stride * dilation
        taps = sorted({t + reach * j for t in axis.taps for j in range(size)})
        where = {t: n for n, t in enumerate(taps)}
        places.append([np.array([where[t + reach * j] for t in axis.taps]) for j in range(size)])
        axes.append(Axis(tuple(taps), axis.stride * step, axis.extent - reach * (size - 1), axis.size))
    shape = tuple(len(a.taps) for a in axes)
    if width == 1:  # depthwise: each output reads what one row read
        row = np.repeat(np.arange(groups), outputs // groups)
        src, grp, slots = v.src, v.grp[row], None
    else:
        src, slots = _unions(v, groups, width)
        grp = np.repeat(np.arange(groups), outputs // groups)

    def build() -> Array:
        inner, weight = v.kernel(), weight_()
        if slots is None:
            row = np.repeat(np.arange(groups), outputs // groups)
            result = np.zeros((outputs, v.width, *shape))
            for tap in itertools.product(*map(range, sizes)):
                factor = weight[_index(slice(None), 0, *tap)].reshape(-1, *(1,) * (1 + len(sizes)))
                result[window(places, tap)] += factor * inner[row]
            return result
        union_size = src.shape[1]
        members = outputs // groups
        result = np.zeros((groups, members, union_size, *shape))
        flat = int(np.prod(inner.shape[2:], dtype=int))
        grouped = weight.reshape(groups, members, width, *sizes)
        if v.width == 1 and union_size == width and len(np.unique(slots)) == slots.size:
            order = np.argsort(slots.reshape(groups, width) % (union_size + 1), axis=1)
            column, sorted_w = inner.reshape(groups, width, flat), grouped
            if not np.array_equal(order, np.broadcast_to(np.arange(width), order.shape)):
                column = np.take_along_axis(column, order[:, :, None], axis=1)
                flat_w = grouped.reshape(groups, members, width, -1)
                sorted_w = np.take_along_axis(flat_w, order[:, None, :, None], axis=2).reshape(grouped.shape)
            if not sizes and flat == 1:
                return (sorted_w * column.reshape(groups, 1, width)).reshape(outputs, union_size)
            for tap in itertools.product(*map(range, sizes)):
                part = sorted_w[_index(*_ALL, *tap)][..., None] * column[:, None]
                result[window(places, tap, lead=3)] += part.reshape(groups, members, union_size, *inner.shape[2:])
            return result.reshape(outputs, union_size, *shape)
        spaced = scatter(inner, slots % (union_size + 1), union_size).reshape(groups, width, union_size * flat)
        for tap in itertools.product(*map(range, sizes)):
            part = grouped[_index(*_ALL, *tap)] @ spaced
            result[window(places, tap, lead=3)] += part.reshape(groups, members, union_size, *inner.shape[2:])
        return result.reshape(outputs, union_size, *shape)

    offset, magnitude, biased, border = constant
    made = Lazy(build, v.kernel)
    return LinConv(tuple(axes), v.channels, src, grp, made, offset, magnitude, biased, v.notes, border, v.border_maps)


_ALL = (slice(None),) * 3


def _index(*parts: Any) -> Any:
    return parts


def window(places: list[list[Ints]], tap: tuple[int, ...], lead: int = 2) -> tuple[Any, ...]:
    """Index the taps that ``tap`` of the outer kernel contributes to."""
    if not places:
        return (Ellipsis,)
    if all(len(axis[0]) == axis[0][-1] - axis[0][0] + 1 for axis in places):
        return (*(slice(None),) * lead, *(slice(p[j][0], p[j][-1] + 1) for p, j in zip(places, tap, strict=True)))
    grid = np.ix_(*(p[j] for p, j in zip(places, tap, strict=True)))
    return (*(slice(None),) * lead, *grid)


def _unions(v: LinConv, groups: int, width: int) -> tuple[Ints, Ints]:
    """Find the root channels that each group of rows reads, and where each row's own channels are among them.

    Slots are offset by ``group · (union_size + 1)`` so that equal slots mean equal places; at ``union_size`` goes -1.
    """
    grp = v.grp.reshape(groups, width)
    found, known = [], dict[bytes, Ints]()
    for members in grp:
        classes = np.unique(members)
        key = classes.tobytes()
        if key not in known:
            union = np.unique(v.src[classes])
            known[key] = union[union >= 0]
        found.append(known[key])
    union_size = max(1, *(len(union) for union in found))
    src = np.full((groups, union_size), -1, dtype=np.int64)
    slots = np.empty((groups, width, v.width), dtype=np.int64)
    for number, (members, union) in enumerate(zip(grp, found, strict=True)):
        src[number, : len(union)] = union
        read = v.src[members]
        place = np.where(read >= 0, np.searchsorted(union, read), union_size)
        slots[number] = place + number * (union_size + 1)
    return src, slots.reshape(groups * width, v.width)


def scatter(kernel: Array, slots: Ints, union_size: int) -> Array:
    """Put each row's columns at their slots among ``union_size``; slot ``union_size`` is thrown away."""
    result = np.zeros((len(kernel), union_size + 1, *kernel.shape[2:]))
    result[np.arange(len(kernel))[:, None], slots] = kernel
    return result[:, :union_size]
