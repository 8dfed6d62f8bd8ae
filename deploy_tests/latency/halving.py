"""Search among many settings in little time, and do not believe what is found: successive halving, then a fresh test.

All candidates are timed for a moment, in turns; the better half is timed again, and so on (Jamieson and Talwalkar,
"Non-stochastic best arm identification and hyperparameter optimization", 2016): each round has the same time, so that
those that are nearly equal are told apart with the most care. The best of many is partly the luckiest, so how fast it
was in the search is never stated: what is stated comes from runs that the search has not seen.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

#: ``measure(candidates, seconds, seed)`` gives rounds of times: in each round one time for every candidate.
Measure = Callable[[Sequence[T], float, int], Sequence[Sequence[float]]]


def search(candidates: Sequence[T], seconds: float, measure: Measure[T]) -> list[T]:
    """Order candidates, the best first, in about as many seconds; those that were left behind early come last."""
    left, behind, rounds = list(candidates), list[T](), max(1, math.ceil(math.log2(len(candidates) or 1)))
    for seed in range(rounds):
        if len(left) < 2:
            break
        ordered = _ordered(left, measure(left, seconds / rounds, seed))
        half = math.ceil(len(left) / 2)
        left, behind = ordered[:half], [*ordered[half:], *behind]
    return [*left, *behind]


def _ordered(candidates: Sequence[T], rounds: Sequence[Sequence[float]]) -> list[T]:
    """Order them by the median over rounds of how each compares with the others of its round."""
    logs = [[math.log(time) for time in row] for row in rounds]
    scores = [statistics.median(row[i] - statistics.fmean(row) for row in logs) for i in range(len(candidates))]
    return [candidates[i] for i in sorted(range(len(candidates)), key=scores.__getitem__)]
