"""Sequences, which are lists, and optional values, which may be None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def optional(_: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """Evaluate Optional: the value, or nothing."""
    return arguments[0] if arguments else None


def has_element(_: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """OptionalHasElement."""
    return np.asarray(bool(arguments) and arguments[0] is not None)


def get_element(_: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """OptionalGetElement."""
    if arguments[0] is None:
        raise ValueError("expected a value, got an empty optional; feed one")
    return arguments[0]


def identity(_: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """Identity, of a value of any kind."""
    return arguments[0]


def construct(_: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """SequenceConstruct."""
    return list(arguments)


def empty(_: Mapping[str, Any], __: Sequence[Any]) -> Any:
    """SequenceEmpty."""
    return []


def insert(_: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """SequenceInsert: at the end if no place is given; a place may count from the end."""
    values, value, place = (*arguments, None)[:3]
    at = len(values) if place is None else _place(place, len(values), 1)
    return [*values[:at], value, *values[at:]]


def erase(_: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """SequenceErase: the last if no place is given."""
    values, place = (*arguments, None)[:2]
    at = len(values) - 1 if place is None else _place(place, len(values))
    return [*values[:at], *values[at + 1 :]]


def at(_: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """SequenceAt."""
    values, place = arguments
    return values[_place(place, len(values))]


def length(_: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """SequenceLength."""
    return np.asarray(len(arguments[0]), np.int64)


def split(attributes: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """SplitToSequence: into pieces of one, of a size (the last may be smaller), or of given sizes."""
    x, sizes = (*arguments, None)[:2]
    axis = int(attributes.get("axis", 0))
    if sizes is None:
        pieces = np.split(x, x.shape[axis], axis) if x.shape[axis] else []
        return pieces if attributes.get("keepdims", 1) else [piece.squeeze(axis) for piece in pieces]
    cuts = np.arange(int(sizes), x.shape[axis], int(sizes)) if sizes.ndim == 0 else np.cumsum(sizes)[:-1]
    return np.split(x, cuts, axis)


def join(attributes: Mapping[str, Any], arguments: Sequence[Any]) -> Any:
    """ConcatFromSequence."""
    axis = int(attributes["axis"])
    return np.stack(arguments[0], axis) if attributes.get("new_axis") else np.concatenate(arguments[0], axis)


def _place(place: Any, count: int, more: int = 0) -> int:
    number = int(np.asarray(place).reshape(()))
    if not -count <= number < count + more:
        raise ValueError(f"expected a place from {-count} to {count - 1 + more}, got {number}")
    return number + count if number < 0 else number
