"""Resize, Upsample and GridSample.

Where one pixel is chosen, or a size, the arithmetic of the choice is part of the meaning: the standard's scales are
float32, every runtime computes with them in float32, and 3 / 0.6 is 5 there, while the float32 number nearest 0.6 is a
little more than that and gives 4 in exact arithmetic. So places and sizes that are rounded to whole numbers come of
float32 in every precision; places that weigh pixels continuously are as exact as the evaluation, of the scale's exact
float32 value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import numpy_helper

from attn_export.reparam.evaluate.tensors import array_of, tensor_of
from attn_export.types import Array

_SINGLE = np.float32
#: What Resize of opset 10 and Upsample mean, without a word for it.
_OLD = {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"old"}


def resize(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Resize from opset 11 on: x, region, scales, sizes."""
    x, region, scales, sizes = (*arguments, *[None] * 4)[:4]
    assert x is not None
    axes = [axis % x.ndim for axis in attributes.get("axes") or range(x.ndim)]
    factors, lengths = _factors(attributes, x, axes, scales, sizes)
    crops = attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    ends = [float(v) for v in region] if crops and region is not None else [0.0] * len(axes) + [1.0] * len(axes)
    y, outside = x.astype(np.float64 if x.dtype.kind in "iub" else x.dtype), np.zeros((1,) * x.ndim, bool)
    for place, axis in enumerate(axes):
        begin, end = ends[place], ends[place + len(axes)]
        if factors[place] == 1 and lengths[place] == x.shape[axis] and (begin, end) == (0.0, 1.0):
            continue
        y, beyond = _along(attributes, y, axis, factors[place], lengths[place], (begin, end))
        outside = outside | beyond.reshape([-1 if at == axis else 1 for at in range(x.ndim)])
    if crops:
        y = np.where(outside, np.asarray(attributes.get("extrapolation_value", 0.0), y.dtype), y)
    return np.asarray(numpy_helper.saturate_cast(y, x.dtype)) if x.dtype.kind in "iu" else np.asarray(y)


def _factors(
    attributes: Mapping[str, Any], x: Array, axes: Sequence[int], scales: Array | None, sizes: Array | None
) -> tuple[list[np.float32], list[int]]:
    """Return scale and length along each axis, of which the node gives one."""
    if sizes is not None and sizes.size:
        return _of_sizes(attributes, x, axes, [int(n) for n in sizes])
    assert scales is not None
    factors = [_SINGLE(s) for s in scales]
    return factors, [int(np.floor(s * _SINGLE(x.shape[axis]))) for s, axis in zip(factors, axes, strict=True)]


def resize_old(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Resize of opset 10, and Upsample: x, scales (an attribute in opset 7)."""
    x, scales = (*arguments, None)[:2]
    given = np.asarray(attributes["scales"], np.float32) if scales is None else scales
    mode = {b"bilinear": b"linear"}.get(attributes.get("mode", b"nearest"), attributes.get("mode", b"nearest"))
    return resize({**_OLD, "mode": mode}, [x, None, given])


def _of_sizes(
    attributes: Mapping[str, Any], x: Array, axes: Sequence[int], sizes: Sequence[int]
) -> tuple[list[np.float32], list[int]]:
    """Return scales and lengths where lengths are asked for, which may have to keep the picture's proportions."""
    factors = [_SINGLE(n) / _SINGLE(x.shape[axis]) for n, axis in zip(sizes, axes, strict=True)]
    policy = attributes.get("keep_aspect_ratio_policy", b"stretch")
    if policy == b"stretch":
        return factors, list(sizes)
    factor = min(factors) if policy == b"not_larger" else max(factors)
    return [factor] * len(axes), [int(factor * _SINGLE(x.shape[axis]) + _SINGLE(0.5)) for axis in axes]


def _along(
    attributes: Mapping[str, Any], x: Array, axis: int, factor: np.float32, length: int, ends: tuple[float, float]
) -> tuple[Array, Array]:
    """Resize one axis; also which places lie outside of it."""
    mode, count = attributes.get("mode", b"nearest"), x.shape[axis]
    single = _places(attributes, np.dtype(np.float32), factor, count, length, ends)
    outside = (single < 0) | (single > count - 1)
    if not length or not count:
        return np.zeros([length if at == axis else n for at, n in enumerate(x.shape)], x.dtype), outside
    if mode == b"nearest":
        chosen = _nearest(attributes.get("nearest_mode", b"round_prefer_floor"), single, factor)
        return x.take(np.clip(chosen, 0, count - 1), axis), outside
    places = _places(attributes, x.dtype, factor, count, length, ends)
    left = np.ceil(places).astype(np.int64) - 1  # a place on a pixel has it to its right, at the ratio 1
    offsets, weights = _weights(attributes, mode, places - left, float(factor))
    taps = left[:, None] + offsets
    if attributes.get("exclude_outside"):
        weights = np.where((taps < 0) | (taps >= count), 0, weights)
        weights = weights / weights.sum(1, keepdims=True)
    taps = np.clip(taps, 0, count - 1)
    shape = [-1 if at == axis else 1 for at in range(x.ndim)]
    y = np.zeros([length if at == axis else n for at, n in enumerate(x.shape)], x.dtype)
    for column in range(taps.shape[1]):
        y += x.take(taps[:, column], axis) * weights[:, column].astype(x.dtype).reshape(shape)
    return y, outside


def _places(
    attributes: Mapping[str, Any],
    dtype: np.dtype[Any],
    factor: np.float32,
    count: int,
    length: int,
    ends: tuple[float, float],
) -> Array:
    """Place each of ``length`` results among ``count`` pixels, by the standard's formulas in this precision."""
    kind = dtype.type
    mode = attributes.get("coordinate_transformation_mode", b"half_pixel")
    at, scale, half, last = np.arange(length, dtype=dtype), kind(factor), kind(0.5), kind(count - 1)
    width = scale * kind(count)  # not yet rounded down
    if mode == b"asymmetric":
        return np.asarray(at / scale)
    if mode == b"align_corners":
        return np.asarray(at * last / (width - kind(1)) if length > 1 else at * kind(0))
    if mode == b"tf_crop_and_resize":
        begin, end = kind(ends[0]), kind(ends[1])
        if length > 1:
            return np.asarray(begin * last + at * (end - begin) * last / (width - kind(1)))
        return np.asarray(half * (begin + end) * last + at)
    centres = (at + half) / scale - half
    if mode == b"half_pixel_symmetric":
        return np.asarray(kind(count) / kind(2) * (kind(1) - kind(length) / width) + centres)
    return np.asarray(at * kind(0) if mode == b"pytorch_half_pixel" and length <= 1 else centres)


def _nearest(mode: bytes, places: Array, factor: np.float32) -> NDArray[np.int64]:
    """One pixel for each place."""
    half = _SINGLE(0.5)
    if mode == b"old":
        mode = b"ceil" if factor < 1 else b"floor"
    if mode == b"floor":
        return np.floor(places).astype(np.int64)
    if mode == b"ceil":
        return np.ceil(places).astype(np.int64)
    whole = np.floor(places)
    up = places - whole > half if mode == b"round_prefer_floor" else places - whole >= half
    return (whole + up).astype(np.int64)


def _weights(
    attributes: Mapping[str, Any], mode: bytes, ratios: Array, factor: float
) -> tuple[NDArray[np.int64], Array]:
    """Offsets of the pixels that count from the one on the left, and their weights [places, offsets].

    Against aliasing the window is as much wider as the picture becomes smaller.
    """
    wide = min(factor, 1.0) if attributes.get("antialias") else 1.0
    reach = 1 if mode == b"linear" else 2
    first = int(np.floor(-reach / wide)) + 1
    offsets = np.arange(first, 2 - first)
    distances = np.abs(ratios[:, None] - offsets) * ratios.dtype.type(wide)
    if mode == b"linear":
        weights = np.clip(1 - distances, 0, None)
    else:
        a, d = ratios.dtype.type(attributes.get("cubic_coeff_a", -0.75)), distances
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        weights = np.where(d <= 1, near, np.where(d < 2, far, 0))
    return offsets, np.asarray(weights / weights.sum(1, keepdims=True) if wide < 1 else weights)


def grid_sample(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """GridSample; the modes had other names in older opsets."""
    x, grid = tensor_of(arguments[0]), tensor_of(arguments[1])
    mode = attributes.get("mode", b"linear").decode()
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding, corners = attributes.get("padding_mode", b"zeros").decode(), bool(attributes.get("align_corners", 0))
    return array_of(F.grid_sample(x, grid, mode, padding, corners))
