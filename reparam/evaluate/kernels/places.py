"""Operators that choose among numbers by their place: slices, gathers, scatters, one-hot rows.

The reference implementation of ONNX cannot gather by indices that are smaller than the array, cuts a slice that ends
before the first number at the wrong place, and takes no depth of a vector of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_export.types import Array


def cut(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Slice: bounds may count from the end, and are brought within the array; a step may go back."""
    x, *bounds = arguments
    assert x is not None
    given: list[Any] = [*bounds, None, None, None, None][:4]
    starts = attributes["starts"] if given[0] is None else given[0]
    ends = attributes["ends"] if given[1] is None else given[1]
    axes = attributes.get("axes", range(len(starts))) if given[2] is None else given[2]
    steps = [1] * len(starts) if given[3] is None else given[3]
    slices = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        slices[int(axis) % x.ndim] = _slice(int(start), int(end), int(step), x.shape[int(axis)])
    return x[tuple(slices)]


def _slice(start: int, end: int, step: int, size: int) -> slice:
    start, end = (n + size if n < 0 else n for n in (start, end))
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end < 0 else end, step) if size else slice(0, 0)


def gather_elements(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """GatherElements: for each index the number at its own place, but along the axis at that index."""
    x, indices = arguments
    assert x is not None
    assert indices is not None
    return x[_at(indices, int(attributes.get("axis", 0)))]


def scatter(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Scatter and ScatterElements: the other way round; where two go to one place they are reduced, if it says how."""
    x, indices, updates = arguments
    assert x is not None
    assert indices is not None
    assert updates is not None
    places = _at(indices, int(attributes.get("axis", 0)))
    return _put(x, places, updates, attributes)


def scatter_nd(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """ScatterND: each row of indices [..., depth] is the place of one update."""
    x, indices, updates = arguments
    assert x is not None
    assert indices is not None
    assert updates is not None
    return _put(x, tuple(np.moveaxis(indices, -1, 0)), updates, attributes)


def _put(x: Array, places: tuple[Array, ...], updates: Array, attributes: Mapping[str, Any]) -> Array:
    y, how = x.copy(), attributes.get("reduction", b"none")
    if how == b"none":
        y[places] = updates
    else:
        reduce = {b"add": np.add, b"mul": np.multiply, b"max": np.maximum, b"min": np.minimum}[how]
        reduce.at(y, places, updates)
    return np.asarray(y)


def _at(indices: Array, axis: int) -> tuple[Array, ...]:
    places: list[Array] = list(np.indices(indices.shape, sparse=True))
    places[axis % indices.ndim] = indices
    return tuple(places)


def one_hot(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """OneHot: indices may count from the end; those beyond either end have no place."""
    indices, depth, values = arguments
    assert indices is not None
    assert depth is not None
    assert values is not None
    count = int(depth.reshape(()))
    chosen = np.where(indices < 0, indices + count, indices)
    axis = int(attributes.get("axis", -1)) % (indices.ndim + 1)
    row = np.arange(count).reshape([-1 if at == axis else 1 for at in range(indices.ndim + 1)])
    return np.asarray(np.where(np.expand_dims(chosen, axis) == row, values[1], values[0]))
