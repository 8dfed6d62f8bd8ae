"""Hold every slice of an output to a limit of its own.

    unit of a slice = max( its float32 error, 8 · 2⁻²⁴ · ‖its reference‖, its usual share · the whole output's unit )

A slice may hold a single number, which a correct float32 run hits exactly by luck: that is no measure of what the next
run may do. So the share of the whole's unit that a slice usually has is learnt over all cases in which its axis has
the same size, as the root mean square, and a slice is judged by itself only where that rests on enough numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from attn_export import bundle
from attn_export.bundle import Case, slices
from attn_export.types import Array

#: Numbers that a slice's share must rest on: its own in every case that counts. With eight independent normal errors
#: the chance that all are below half a standard deviation is 4e-4, with sixteen 2e-7; each is the largest of several.
LEAST = 8

#: By output, axis and size of that axis: the usual share of each slice; NaN where it rests on too few numbers.
Shares = Mapping[tuple[str, int, int], Array]


@dataclass(frozen=True)
class WorstSlice:
    """The slice that is furthest beyond its limit, or nearest to it.

    Attributes:
        axis: along which it is cut.
        index: its place there.
        size: how many slices there are.
        error: Euclidean norm of its difference.
        reference: Euclidean norm of its reference.
        normalized_error: the error in its units; infinite where it is granted none.
    """

    axis: int
    index: int
    size: int
    error: float
    reference: float
    normalized_error: float

    def summary(self) -> str:
        """Name it for people.

        >>> WorstSlice(1, 7, 18, 0.08, 0.08, 1e5).summary()
        'slice 7 of 18 along axis 1 (error 0.08, reference 0.08)'
        """
        return (
            f"slice {self.index} of {self.size} along axis {self.axis}"
            f" (error {self.error:.3g}, reference {self.reference:.3g})"
        )


def unit(case: Case, name: str) -> float:
    """Compute the error that correct float32 is granted over a whole output."""
    return max(case.float32_error[name], bundle.FLOOR * bundle.norm(case.reference[name]))


def shares(cases: Iterable[Case]) -> Shares:
    """Learn from all cases which share of the whole output's unit each slice has."""
    squares: dict[tuple[str, int, int], list[Array]] = defaultdict(list)
    numbers: dict[tuple[str, int, int], int] = defaultdict(int)
    for case in cases:
        for name, by_axis in case.slice_error.items():
            whole = unit(case, name)
            if not 0 < whole < math.inf:
                continue
            for axis, errors in by_axis.items():
                reference = case.reference[name]
                key = name, axis, len(errors)
                squares[key].append((_own(errors, reference, axis) / whole) ** 2)
                numbers[key] += reference.size // max(1, len(errors))
    return {
        key: np.sqrt(np.mean(rows, axis=0)) if numbers[key] >= LEAST else np.full(key[2], np.nan)
        for key, rows in squares.items()
    }


def _own(errors: Array, reference: Array, axis: int) -> Array:
    return np.asarray(np.maximum(errors, bundle.FLOOR * slices.norms(reference, axis)))


def worst(difference: Array, case: Case, name: str, known: Shares) -> WorstSlice | None:
    """Find the worst slice of one output's difference; None where none is judged by itself."""
    found = None
    reference, whole = case.reference[name], unit(case, name)
    for axis, errors in case.slice_error.get(name, {}).items():
        share = known.get((name, axis, len(errors)))
        if share is None or not len(errors) or np.isnan(share[0]):
            continue
        allowed = np.maximum(_own(errors, reference, axis), share * whole)
        came = slices.norms(difference, axis)
        with np.errstate(divide="ignore", invalid="ignore"):
            k = np.where(came > 0, came / allowed, 0.0)
        index = int(k.argmax())
        if found is None or k[index] > found.normalized_error:
            size = float(slices.norms(reference.take([index], axis), axis)[0])
            found = WorstSlice(axis, index, len(errors), float(came[index]), size, float(k[index]))
    return found
