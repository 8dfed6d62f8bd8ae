"""The algebra's kernel as a convolution stores it: groups, regular taps, one dense array.

w[o, i, t] = kernel[o, j, t']      src[grp[o], j] = i + (first channel of o's group),  t' the tap at lo + t · dilation
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd

import numpy as np

from attn_export.reparam.algebra.linconv import Axis, LinConv
from attn_export.types import Array, Ints


def class_order(lin: LinConv) -> Ints | None:
    """Order root channels so that classes are contiguous, if every channel is read by one class."""
    read = lin.src[lin.src >= 0]
    if len(lin.src) == 1 or len(np.unique(read)) != len(read) or (lin.src < 0).any():
        return None
    first = np.unique(lin.grp, return_index=True)[1]
    return np.asarray(lin.src[lin.grp[np.sort(first)]].reshape(-1))


def renamed(lin: LinConv, order: Ints) -> LinConv:
    """Restrict to the root channels of ``order``, in that order."""
    place = np.full(lin.channels + 1, -1)
    place[order] = np.arange(len(order))
    return replace(lin, src=place[lin.src], channels=len(order))


def groups_of(lin: LinConv) -> int:
    """Return the largest number of groups in which a convolution can have this support."""
    least = np.where(lin.src < 0, lin.channels, lin.src).min(axis=1)[lin.grp]
    most = lin.src.max(axis=1)[lin.grp]
    both = gcd(lin.outputs, lin.channels)
    number = np.arange(lin.outputs)
    for groups in (g for g in range(both, 0, -1) if both % g == 0):
        block = number // (lin.outputs // groups)
        width = lin.channels // groups
        if np.all(least >= block * width) and np.all(most < (block + 1) * width):
            return groups
    raise AssertionError("one group always holds everything")


def taps(axis: Axis) -> tuple[int, int, int]:
    """First tap, dilation and count of the regular kernel that holds the taps; a crop is done elsewhere."""
    if len(axis.taps) == 1:
        return axis.lo, 1, 1
    step = gcd(*(b - a for a, b in zip(axis.taps, axis.taps[1:], strict=False)))
    return axis.lo, step, (axis.hi - axis.lo) // step + 1


def dense(lin: LinConv, groups: int) -> Array:
    """Lay out the kernel as a convolution of ``groups`` stores it."""
    regular = [taps(a) for a in lin.axes]
    width = lin.channels // groups
    block = np.arange(lin.outputs) // (lin.outputs // groups)
    pairs, of = np.unique(np.stack([lin.grp, block]), axis=1, return_inverse=True)  # few, where outputs are many
    read = lin.src[pairs[0]]
    slots = np.where(read < 0, width, read - (pairs[1] * width)[:, None])
    plain = lin.width == width and np.array_equal(slots, np.broadcast_to(np.arange(width), slots.shape))
    if plain and all(len(a.taps) == count for a, (_, _, count) in zip(lin.axes, regular, strict=True)):
        return np.ascontiguousarray(lin.kernel())
    result = np.zeros((lin.outputs, width + 1, *(count for _, _, count in regular)))
    where = [np.array([(t - lo) // step for t in a.taps]) for a, (lo, step, _) in zip(lin.axes, regular, strict=True)]
    part = np.zeros((lin.outputs, lin.width, *result.shape[2:]))
    part[np.ix_(np.arange(lin.outputs), np.arange(lin.width), *where)] = lin.kernel()
    result[np.arange(lin.outputs)[:, None], slots[of.reshape(-1)]] = part
    return np.ascontiguousarray(result[:, :width])
