"""NonMaxSuppression and DeformConv: the reference implementation of ONNX takes minutes for one image of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from attn_export.types import Array, Ints


def suppress(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """NonMaxSuppression: boxes [n, boxes, 4], scores [n, classes, boxes]; gives (item, class, box) of what is kept."""
    boxes, scores, most, overlap, least = (*arguments, None, None, None)[:5]
    assert boxes is not None
    assert scores is not None
    count = int(most.reshape(-1)[0]) if most is not None and most.size else 0
    limit = float(overlap.reshape(-1)[0]) if overlap is not None and overlap.size else 0.0
    bound = float(least.reshape(-1)[0]) if least is not None and least.size else -np.inf
    found = [np.empty((0, 3), np.int64)]
    for item, kind in product(range(scores.shape[0]), range(scores.shape[1]) if count > 0 else ()):
        own = scores[item, kind]
        candidates = np.flatnonzero(own > bound) if bound > -np.inf else np.arange(len(own))
        ordered = candidates[np.argsort(-own[candidates], kind="stable")]
        corners = _corners(boxes[item, ordered], centred=bool(attributes.get("center_point_box", 0)))
        kept = ordered[_kept(corners, count, limit)]
        found.append(np.stack([np.full(len(kept), item), np.full(len(kept), kind), kept], axis=1))
    return np.concatenate(found).astype(np.int64)


def _corners(boxes: Array, *, centred: bool) -> tuple[Array, Array]:
    """Give the lower and the upper corner of each box [boxes, 2]."""
    one, other = boxes[:, :2], boxes[:, 2:]
    if centred:
        return one - other / 2, one + other / 2
    return np.minimum(one, other), np.maximum(one, other)


def _kept(corners: tuple[Array, Array], most: int, limit: float) -> Ints:
    """Keep boxes in their order, each of which takes those behind it away that overlap with it."""
    low, high = corners
    area, left, kept = np.prod(high - low, axis=1), np.arange(len(low)), list[int]()
    while len(left) and len(kept) < most:
        first, left = int(left[0]), left[1:]
        kept.append(first)
        sides = np.minimum(high[left], high[first]) - np.maximum(low[left], low[first])
        shared = np.where((sides > 0).all(axis=1), np.prod(sides, axis=1), 0.0)
        union = area[left] + area[first] - shared
        real = (shared > 0) & (area[left] > 0) & (area[first] > 0) & (union > 0)
        left = left[~(real & (shared / np.where(real, union, 1.0) > limit))]
    return np.asarray(kept, np.int64)


def convolve_deformed(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Any:
    """DeformConv of images: x [n, c, h, w], weight [out, c / group, *kernel], offset, bias [out], mask."""
    x, weight, offset, bias, mask = (*arguments, None, None)[:5]
    assert x is not None
    assert weight is not None
    assert offset is not None
    if x.ndim != 4:
        return NotImplemented
    group, own = attributes.get("group", 1), attributes.get("offset_group", 1)
    (items, channels), (height, width) = x.shape[:2], offset.shape[2:]
    kernel = weight.shape[2:]
    offset = offset.reshape(items, own, *kernel, 2, height, width)
    shares = (
        np.ones((1, 1, *kernel, 1, 1), x.dtype) if mask is None else mask.reshape(items, own, *kernel, height, width)
    )
    columns = [
        _sampled(x.reshape(items, own, channels // own, *x.shape[2:]), offset[:, :, at[0], at[1]] + steps)
        * shares[:, :, None, at[0], at[1]]
        for at, steps in _grids(attributes, kernel, (height, width))
    ]
    taps = np.stack(columns, axis=3).reshape(items, group, channels // group * len(columns), height * width)
    y = weight.reshape(group, len(weight) // group, -1)[None] @ taps
    y = y.reshape(items, len(weight), height, width)
    return np.asarray(y if bias is None else y + bias.reshape(-1, 1, 1))


def _grids(
    attributes: Mapping[str, Any], kernel: Sequence[int], size: Sequence[int]
) -> Iterator[tuple[tuple[int, int], Array]]:
    """Yield each place of the kernel and where it lies, for each place of the output, without offsets [2, h, w]."""
    steps, gaps = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads = attributes.get("pads", [0] * 4)
    first = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(size, steps, strict=True)), indexing="ij"))
    for at in product(range(kernel[0]), range(kernel[1])):
        moves = [place * gap - pad for place, gap, pad in zip(at, gaps, pads, strict=False)]
        yield at, first + np.asarray(moves)[:, None, None]


def _sampled(x: Array, places: Array) -> Array:
    """Sample x [n, groups, c, h, w] at places [n, groups, 2, *out], linearly, zeros outside it [n, groups, c, *out]."""
    items, groups, channels, height, width = x.shape
    flat = x.reshape(items, groups, channels, height * width)
    corner = np.floor(places)
    ratio, corner = places - corner, corner.astype(np.int64)
    found = np.zeros((items, groups, channels, *places.shape[3:]), x.dtype)
    for down, right in product((0, 1), (0, 1)):
        rows, columns = corner[:, :, 0] + down, corner[:, :, 1] + right
        weight = np.abs(1 - down - ratio[:, :, 0]) * np.abs(1 - right - ratio[:, :, 1])
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        index = np.where(inside, rows * width + columns, 0).reshape(items, groups, 1, -1)
        taken = np.take_along_axis(flat, np.broadcast_to(index, (items, groups, channels, index.shape[-1])), axis=3)
        found += taken.reshape(found.shape) * np.where(inside, weight, 0.0).astype(x.dtype)[:, :, None]
    return found
