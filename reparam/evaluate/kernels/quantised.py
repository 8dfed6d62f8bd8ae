"""Quantisation as ONNX defines it, in any precision and for every operator set: the reference knows only the newest.

quantise    q = clip(round_half_even(x / scale) + zero)        dequantise    x = (q - zero) * scale

What is rounded to whole numbers is divided in float32 in every precision: -2.5 / (5 / 255) is a tie in exact arithmetic
and none in float32, and the runtimes' choice is the meaning (as in ``kernels_sampling``).

Sums of products of bytes are whole numbers, which float64 holds exactly; what is scaled again is rounded as above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from onnx import helper

from attn_export.reparam.evaluate.kernels import windows
from attn_export.types import Array


def quantise(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Any:
    """Round to whole numbers of the zero point's type, or of the one that the node names; others are not ours."""
    x, scale, zero = (*arguments, None)[:3]
    assert x is not None
    assert scale is not None
    if zero is None:
        named = attributes.get("output_dtype")
        zero = np.zeros_like(scale, helper.tensor_dtype_to_np_dtype(named) if named else np.uint8)
    if not _is_whole(zero.dtype):
        return NotImplemented  # the reference knows which others there are
    if zero.dtype.itemsize > 2:
        raise ValueError(f"expected codes of at most 16 bits, got {zero.dtype}")
    quotient = x.astype(np.float32) / _along(scale.astype(np.float32), x, attributes)
    return _clipped(np.rint(quotient).astype(np.float64) + _along(zero, x, attributes).astype(np.float64), zero.dtype)


def dequantise(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Give back the numbers, in the scale's precision."""
    x, scale, zero = (*arguments, None)[:3]
    assert x is not None
    assert scale is not None
    whole = x.astype(scale.dtype)
    if zero is not None:
        whole = whole - _along(zero.astype(scale.dtype), x, attributes)
    return np.asarray(whole * _along(scale, x, attributes))


def quantise_dynamic(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> tuple[Array, Array, Array]:
    """DynamicQuantizeLinear: bytes, their scale and zero point.

    It is defined for float32 alone, and rounds what it computed in it: so it is computed in it in every precision.
    """
    assert arguments[0] is not None
    x = arguments[0].astype(np.float32)
    least, most = np.minimum(x.min(initial=0), np.float32(0)), np.maximum(x.max(initial=0), np.float32(0))
    scale = np.asarray((most - least) / np.float32(255))
    safe = scale if scale else np.float32(1)
    zero = _clipped(np.rint(-least / safe), np.dtype(np.uint8))
    return _clipped(np.rint(x / safe) + zero, zero.dtype), scale, zero


def product(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """MatMulInteger: int32; zero points for the whole, for each row of a, or for each column of b."""
    a, b, zero_a, zero_b = (*arguments, None, None)[:4]
    return np.asarray((_rows(a, zero_a) @ _columns(b, zero_b)).astype(np.int32))


def product_linear(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """QLinearMatMul."""
    a, scale_a, zero_a, b, scale_b, zero_b, scale_y, zero_y = arguments
    assert scale_y is not None
    assert zero_y is not None
    scaled_a = _rows(a, zero_a) * _as_rows(np.asarray(scale_a))
    y = scaled_a @ (_columns(b, zero_b) * np.asarray(scale_b)) / _as_rows(scale_y)
    return _clipped(np.rint(y) + _as_rows(zero_y).astype(np.float64), zero_y.dtype)


def convolve(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """ConvInteger: int32; what pads is the zero point."""
    x, weight, zero_x, zero_w = (*arguments, None, None)[:4]
    return _sums(attributes, x, zero_x, weight, zero_w).astype(np.int32)


def convolve_linear(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """QLinearConv: the bias is of the scale of x times that of the weight."""
    x, scale_x, zero_x, weight, scale_w, zero_w, scale_y, zero_y, bias = (*arguments, None)[:9]
    assert x is not None
    assert zero_y is not None
    sums = _sums(attributes, x, zero_x, weight, zero_w)
    if bias is not None:
        sums = sums + bias.astype(np.float64).reshape(-1, *(1,) * (x.ndim - 2))
    each = np.asarray(scale_x, np.float64) * np.asarray(scale_w, np.float64) / np.asarray(scale_y, np.float64)
    scaled = np.rint(sums * (each.reshape(-1, *(1,) * (x.ndim - 2)) if each.size > 1 else each.reshape(())))
    return _clipped(scaled + zero_y.astype(np.float64).reshape(()), zero_y.dtype)


def _sums(
    attributes: Mapping[str, Any], x: Array | None, zero_x: Array | None, weight: Array | None, zero_w: Array | None
) -> Array:
    assert x is not None
    assert weight is not None
    first = x.astype(np.float64) - (0 if zero_x is None else zero_x.astype(np.float64).reshape(()))
    second = weight.astype(np.float64)
    if zero_w is not None:
        zero = zero_w.astype(np.float64)
        second = second - (zero.reshape(-1, *(1,) * (second.ndim - 1)) if zero.size > 1 else zero.reshape(()))
    return windows.convolve(attributes, [first, second])


def _rows(a: Array | None, zero: Array | None) -> Array:
    assert a is not None
    return a.astype(np.float64) - (0 if zero is None else _as_rows(zero).astype(np.float64))


def _as_rows(values: Array) -> Array:
    """One for the whole, or one for each row."""
    return np.asarray(values[:, None] if values.ndim == 1 and values.size > 1 else values)


def _columns(b: Array | None, zero: Array | None) -> Array:
    assert b is not None
    return b.astype(np.float64) - (0 if zero is None else zero.astype(np.float64))


def _is_whole(kind: np.dtype[Any]) -> bool:
    return kind.kind in "iu" or kind.name in ("int4", "uint4", "int2", "uint2")


def _clipped(whole: Array, kind: np.dtype[Any]) -> Array:
    limits: Any = np.iinfo(kind) if kind.kind in "iu" else ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
    return np.asarray(np.clip(whole, int(limits.min), int(limits.max)).astype(kind))


def _along(values: Array, x: Array, attributes: Mapping[str, Any]) -> Array:
    """Scales or zero points shaped to go with ``x``: one for all, one a channel, or one a block."""
    if values.size == 1:
        return values.reshape(())
    axis = int(attributes.get("axis", 1)) % x.ndim
    if values.ndim == 1:
        return values.reshape([-1 if at == axis else 1 for at in range(x.ndim)])
    size = int(attributes["block_size"])
    return np.repeat(values, size, axis).take(range(x.shape[axis]), axis)
