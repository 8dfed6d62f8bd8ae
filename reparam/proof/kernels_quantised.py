"""Quantisation as ONNX defines it, in any precision and for every operator set: the reference knows only the newest.

quantise    q = clip(round_half_even(x / scale) + zero)        dequantise    x = (q - zero) * scale
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]


def quantise(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Round to integers of the zero point's type, or of the one that the node names."""
    x, scale, zero = (*arguments, None)[:3]
    assert x is not None
    assert scale is not None
    if zero is None:
        named = attributes.get("output_dtype")
        zero = np.zeros_like(scale, helper.tensor_dtype_to_np_dtype(named) if named else np.uint8)
    if zero.dtype.kind not in "iu":
        raise ValueError(f"{zero.dtype} is no integer")
    least, most = np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max
    whole = np.rint(x / _along(scale, x, attributes)) + _along(zero, x, attributes)
    return np.asarray(np.clip(whole, least, most).astype(zero.dtype))


def dequantise(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Give back the numbers, in the scale's precision."""
    x, scale, zero = (*arguments, None)[:3]
    assert x is not None
    assert scale is not None
    whole = x.astype(scale.dtype)
    if zero is not None:
        whole = whole - _along(zero.astype(scale.dtype), x, attributes)
    return np.asarray(whole * _along(scale, x, attributes))


def _along(values: Array, x: Array, attributes: Mapping[str, Any]) -> Array:
    """Scales or zero points shaped to go with ``x``: one for all, one a channel, or one a block."""
    if values.size == 1:
        return values.reshape(())
    axis = int(attributes.get("axis", 1)) % x.ndim
    if values.ndim == 1:
        return values.reshape([-1 if at == axis else 1 for at in range(x.ndim)])
    size = int(attributes["block_size"])
    return np.repeat(values, size, axis).take(range(x.shape[axis]), axis)
