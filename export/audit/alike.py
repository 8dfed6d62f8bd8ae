"""Tensors of the same elements, wherever those stand: one sum of bits tells most of all others apart.

    key(w) = (count of elements, Σ bits(wᵢ) mod 2⁶⁴)

Equal tensors have equal keys, and so have all transpositions of one; of tensors that differ few have. What is left is
compared element by element, so that a key decides nothing by itself.
"""

from __future__ import annotations

import numpy as np

from attn_export.types import Array

#: How many elements, and the sum of their bits.
Key = tuple[int, int]
#: Elements that are summed at once: what is copied meanwhile is small.
_BLOCK = 1 << 18


def key(value: Array) -> Key:
    """Sum the bits of all elements as float32, or as float64 where float32 does not hold one of them.

    >>> one = np.float32([[1, 2], [3, -0.0]])
    >>> key(one) == key(one.T.astype(np.float64) + 0.0)
    True
    >>> key(one) == key(np.float32([[1, 2], [3, 4]]))
    False
    """
    flat, total = value.ravel(order="K"), 0
    flat = flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat
    for first in range(0, flat.size, _BLOCK):
        total += _sum(flat[first : first + _BLOCK])
    return value.size, total % (1 << 64)


def _sum(block: Array) -> int:
    with np.errstate(over="ignore", invalid="ignore"):
        single = block.astype(np.float32) + np.float32(0)  # which makes one zero of the two
        if block.dtype.itemsize <= single.itemsize:
            return int(single.view(np.uint32).sum(dtype=np.uint64))
        held = single == block
    wide = block[~held].astype(np.float64)
    return int(single[held].view(np.uint32).sum(dtype=np.uint64)) + int(wide.view(np.uint64).sum(dtype=np.uint64))
