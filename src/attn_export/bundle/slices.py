"""Slices of an output: everything at one index of an axis, such as one class, one column of boxes, one row of pixels.

One norm over a whole output hides what is small in it: boxes of norm 13,000 beside scores of 0.08.
"""

from __future__ import annotations

import numpy as np

from attn_export.types import Array


def axes(rank: int) -> tuple[int, ...]:
    """List the axes along which an output is judged slice by slice.

    The first holds the items of a batch, which are alike; where it is the only one, its elements have a meaning.

    >>> axes(4), axes(1), axes(0)
    ((1, 2, 3), (0,), ())
    """
    return tuple(range(1, rank)) if rank > 1 else tuple(range(rank))


def norms(values: Array, axis: int) -> Array:
    """Compute the Euclidean norm of each slice in float64; what is not finite counts as zero.

    >>> norms(np.array([[3.0, np.inf], [4.0, 1.0]]), 1)
    array([5., 1.])
    """
    wide = values.astype(np.float64)
    others = tuple(index for index in range(values.ndim) if index != axis)
    with np.errstate(over="ignore"):
        squares = np.square(np.where(np.isfinite(wide), wide, 0.0))
        return np.asarray(np.sqrt(squares.sum(axis=others)))
