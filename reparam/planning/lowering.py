"""A lowering: the operators that would compute a state from its root, all but their numbers.

So a candidate is priced without building its kernel; only the one that is chosen is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attn_export.reparam import ir
from attn_export.reparam.planning.cost import CostProfile, Work
from attn_export.reparam.types import Dim

Sizes = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LoweringStep:
    """One operator to be: its work, the shape and sizes of what it gives, and how to build it."""

    build: Callable[[], ir.Op]
    work: Work
    shape: tuple[Dim, ...]
    sizes: Sizes
    stored: int = 0


@dataclass(frozen=True, eq=False)
class Lowering:
    """The steps from the root to the target, in order."""

    steps: tuple[LoweringStep, ...]

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates."""
        return sum(step.work.macs for step in self.steps)

    @property
    def stored(self) -> int:
        """Return how many numbers are stored."""
        return sum(step.stored for step in self.steps)

    def seconds(self, profile: CostProfile) -> float:
        """Estimate the time."""
        return sum(step.work.seconds(profile) for step in self.steps)
