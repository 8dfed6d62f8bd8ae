"""Mutants of our own code that change nothing which anybody could see, each with its reason.

A mutant is known by the lines that it takes out and puts in, so that it is found wherever they move to.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Equivalent:
    """A mutant that computes the same.

    Attributes:
        module: the file, from the root of the repository.
        old: the line that it takes out, without its indent.
        new: what it puts in its place.
        reason: why nothing can tell them apart.
    """

    module: str
    old: str
    new: str
    reason: str


_SMALL = "both are integers below 257, of which CPython keeps one object each"

EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "src/attn_export/bundle/slices.py",
        "others = tuple(index for index in range(values.ndim) if index != axis)",
        "others = tuple(index for index in range(values.ndim) if index is not axis)",
        _SMALL,
    ),
    Equivalent(
        "reparam/algebra/sums.py",
        "if v.width != wide or not np.array_equal(slots, np.broadcast_to(np.arange(wide), slots.shape)):",
        "if v.width is not wide or not np.array_equal(slots, np.broadcast_to(np.arange(wide), slots.shape)):",
        "what is scattered to where it stands already stays what it is: only time is saved",
    ),
    Equivalent(
        "reparam/algebra/sums.py",
        "inverse.reshape(-1)[grp],",
        "inverse.reshape(- 2)[grp],",
        "NumPy takes any negative length for the one that is not known",
    ),
    Equivalent(
        "reparam/algebra/compose.py",
        "if not sizes and flat == 1:",
        "if not sizes and flat <= 1:",
        "it counts taps, and every axis has one at least",
    ),
)
