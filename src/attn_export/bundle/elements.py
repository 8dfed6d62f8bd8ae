"""Arrays of every element type of a model: NumPy's own, and bfloat16, which it has not, as float32 numbers.

bfloat16 is the upper half of a float32, so a float32 array holds each of its numbers exactly, and anybody can read it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_export.types import Array

BFLOAT16 = "bfloat16"


def held_as(dtype: str) -> np.dtype[Any]:
    """Say which element type of NumPy holds one of a model's.

    >>> held_as("bfloat16"), held_as("int8")
    (dtype('float32'), dtype('int8'))
    """
    return np.dtype(np.float32 if dtype == BFLOAT16 else dtype)


def holds(values: Array, dtype: str) -> bool:
    """Whether an array is of an element type: as NumPy has it, and only numbers that it has.

    >>> holds(np.float32([1.5]), "bfloat16"), holds(np.float32([1.001]), "bfloat16"), holds(np.int8([1]), "bfloat16")
    (True, False, False)
    """
    if values.dtype != held_as(dtype):
        return False
    return dtype != BFLOAT16 or not (_whole(values) & 0xFFFF)[~np.isnan(values)].any()


def strange(values: Array, dtype: str) -> str:
    """Say why an array is not of an element type.

    >>> strange(np.int8([1]), "float32")
    'expected float32, got int8'
    """
    if values.dtype == held_as(dtype):
        return f"expected {dtype}, got {values.dtype} numbers that it does not have"
    return f"expected {dtype}{f' (as {held_as(dtype)})' if dtype == BFLOAT16 else ''}, got {values.dtype}"


def fitted(values: Any, dtype: str) -> Array:
    """Convert to an element type; to bfloat16 as processors do, to the nearest number, of two the even one.

    >>> fitted([1.0, 1.001, 1.00390625], "bfloat16").tolist()
    [1.0, 1.0, 1.0]
    """
    made = np.array(values, held_as(dtype), order="C")
    return from_bits(to_bits(made)) if dtype == BFLOAT16 else made


def to_bits(values: Array) -> Array:
    """Give the bits of bfloat16 numbers, as uint16; others are rounded."""
    whole = _whole(values).astype(np.uint64)
    rounded = (whole + 0x7FFF + ((whole >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (whole >> 16) | 0x40, rounded).astype(np.uint16)


def from_bits(bits: Array) -> Array:
    """Give the numbers of bfloat16 bits, as float32."""
    return np.left_shift(bits.astype(np.uint32), 16).view(np.float32)


def in_32_bits(values: Array, name: str, runtime: str) -> Array:
    """Give an array as runtimes hold it that know floats and integers of 32 bits alone.

    Raises:
        ValueError: an integer is too large for that.
    """
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values, np.float32)
    whole = np.ascontiguousarray(values, np.int32)
    if not np.array_equal(whole, values):
        raise ValueError(f"{name} holds integers beyond 32 bits, and {runtime} knows no larger")
    return whole


def _whole(values: Array) -> Array:
    return np.ascontiguousarray(values, np.float32).reshape(values.shape).view(np.uint32)
