"""Values of one root brought together: sums and concatenations, over the union of what they read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attn_export.reparam.algebra import border_map
from attn_export.reparam.algebra.border_map import Lazy
from attn_export.reparam.algebra.compose import scatter, window
from attn_export.reparam.algebra.linconv import Axis, LinConv, NotFusibleError
from attn_export.types import Array, Ints


def _aligned(values: Sequence[LinConv]) -> tuple[tuple[Axis, ...], list[list[Ints]], set[str]]:
    """Bring several values to common axes; says where the taps of each go.

    Raises:
        NotFusibleError: they do not look through the same window.
    """
    axes, places, notes = [], [list[Ints]() for _ in values], set[str]()
    for parts in zip(*(v.axes for v in values), strict=True):
        first = parts[0]
        if any(p.stride != first.stride for p in parts):
            if first.size is None or any(p.length(first.size) != 1 for p in parts):
                raise NotFusibleError(f"branches have different strides ({', '.join(str(p.stride) for p in parts)})")
            notes.add("static")  # one position only: the stride says nothing
        if any(p.extent != first.extent for p in parts):
            if first.size is None:
                raise NotFusibleError(
                    "branches show windows of equal size for some sizes only, and this axis is dynamic",
                    "export a fixed size, or make paddings agree",
                )
            if len({p.length(first.size) for p in parts}) > 1:
                raise NotFusibleError("branches show windows of different sizes")
            notes.add("static")
        taps = tuple(sorted({t for p in parts for t in p.taps}))
        where = {t: n for n, t in enumerate(taps)}
        narrow = min(parts, key=lambda p: p.extent)
        axes.append(Axis(taps, narrow.stride, narrow.extent, first.size))
        for place, part in zip(places, parts, strict=True):
            place.append(np.array([where[t] for t in part.taps]))
    return tuple(axes), places, notes


def _join(rows_: Sequence[Ints]) -> Ints:
    """Unite sorted rows; gives the widest itself where it holds all the others."""
    widest = max(rows_, key=len)
    for row in rows_:
        if row is not widest:
            place = np.searchsorted(widest, row)
            if len(row) and (place[-1] >= len(widest) or not np.array_equal(widest[place], row)):
                return np.unique(np.concatenate(rows_))
    return widest


def add(values: Sequence[LinConv]) -> LinConv:
    """Sum values of one root.

    Raises:
        NotFusibleError: they do not look through the same window.
    """
    axes, places, notes = _aligned(values)
    shape = tuple(len(a.taps) for a in axes)
    outputs = values[0].outputs
    bias = np.sum([v.bias for v in values], axis=0)
    magnitude = np.sum([v.bias_magnitude for v in values], axis=0)
    biased = any(v.biased for v in values)
    remarks = frozenset().union(notes, *(v.notes for v in values))
    first, border = values[0], border_map.total([v.border_map for v in values])
    if all(np.array_equal(v.src, first.src) and np.array_equal(v.grp, first.grp) for v in values[1:]):

        def total() -> Array:  # all read the same channels: only taps differ
            result = np.zeros((outputs, first.width, *shape))
            for v, place in zip(values, places, strict=True):
                result[window([[p] for p in place], (0,) * len(place))] += v.kernel()
            return result

        made = Lazy(total, *(v.kernel for v in values))
        return LinConv(
            axes,
            first.channels,
            first.src,
            first.grp,
            made,
            bias,
            magnitude,
            biased,
            remarks,
            border,
            first.border_maps,
        )
    pairs, grp = np.unique(np.stack([v.grp for v in values], axis=1), axis=0, return_inverse=True)
    read = [[row[row >= 0] for row in v.src] for v in values]
    unions, class_of, src = list[Ints](), list[int](), dict[bytes, int]()
    for classes in pairs:
        union = _join([rows_[c] for rows_, c in zip(read, classes, strict=True)])
        class_of.append(src.setdefault(union.tobytes(), len(src)))
        if len(unions) < len(src):
            unions.append(union)
    wide = max(1, *(len(u) for u in unions))
    table = np.full((len(unions), wide), -1, dtype=np.int64)
    for number, union in enumerate(unions):
        table[number, : len(union)] = union
    joined = np.array(class_of)[grp.reshape(-1)]

    def build() -> Array:
        result = np.zeros((outputs, wide, *shape))
        for n, v in enumerate(values):
            slots = np.full((len(pairs), v.width), wide)
            for number, classes in enumerate(pairs):
                row = v.src[classes[n]]
                slots[number] = np.where(row >= 0, np.searchsorted(unions[class_of[number]], row), wide)
            part = v.kernel()
            if v.width != wide or not np.array_equal(slots, np.broadcast_to(np.arange(wide), slots.shape)):
                part = scatter(part, slots[grp.reshape(-1)], wide)
            result[window([[p] for p in places[n]], (0,) * len(places[n]))] += part
        return result

    made = Lazy(build, *(v.kernel for v in values))
    return LinConv(
        axes, first.channels, table, joined, made, bias, magnitude, biased, remarks, border, first.border_maps
    )


def concat(values: Sequence[LinConv]) -> LinConv:
    """Put the channels of values of one root one after the other.

    Raises:
        NotFusibleError: they do not look through the same window.
    """
    axes, places, notes = _aligned(values)
    shape = tuple(len(a.taps) for a in axes)
    wide = max(v.width for v in values)
    src = np.concatenate([np.pad(v.src, ((0, 0), (0, wide - v.width)), constant_values=-1) for v in values])
    first = np.cumsum([0, *(len(v.src) for v in values)])
    grp = np.concatenate([v.grp + start for v, start in zip(values, first, strict=False)])
    src, inverse = np.unique(src, axis=0, return_inverse=True)

    def build() -> Array:
        parts = []
        for v, place in zip(values, places, strict=True):
            part = np.zeros((v.outputs, wide, *shape))
            grid = np.ix_(np.arange(v.outputs), np.arange(v.width), *place)
            part[grid] = v.kernel()
            parts.append(part)
        return np.concatenate(parts)

    return LinConv(
        axes,
        values[0].channels,
        src,
        inverse.reshape(-1)[grp],
        Lazy(build, *(v.kernel for v in values)),
        np.concatenate([v.bias for v in values]),
        np.concatenate([v.bias_magnitude for v in values]),
        any(v.biased for v in values),
        frozenset().union(notes, *(v.notes for v in values)),
        border_map.joined([v.border_map for v in values], [v.outputs for v in values], values[0].lengths or ()),
        values[0].border_maps,
    )
