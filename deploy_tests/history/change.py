"""Where a series has changed its level: figures that differ from run to run, each with a doubt of its own.

    yᵢ = level + bᵢ + eᵢ        b: what differs between runs, of unknown variance τ²;  e: of the run's own variance sᵢ²

τ² is what the scatter within stretches of one level leaves beyond what the runs' own sᵢ² explain, and never less than
none of it; so a quiet series is not believed to be quieter than its runs say. Two stretches of n₁ and n₂ runs differ by
d with the variance

    v = τ² (1/n₁ + 1/n₂) + Σ sᵢ²/n₁² + Σ sᵢ²/n₂²

and d/√v is held against Student's t, of as many degrees of freedom as the scatter has. Every place where a series might
have changed is one comparison, and so is every stretch that might have another level than what lies around it, which no
single place would show (circular binary segmentation: Olshen, Venkatraman et al., Biostatistics 2004). Each of the two
searches has half of the level of the test, divided by the number of its comparisons (Bonferroni): the probability that
a series which never changed is said to have changed *anywhere* stays below it. After a change each part is looked at
again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from attn_export.deploy_tests.history import student

#: Runs without which the scatter is not known: two of one level, and one to compare.
LEAST = 3

_exceeded = lru_cache(4096)(student.exceeded)


@dataclass(frozen=True)
class Sample:
    """One run: the logarithm of its figure, and the standard error of that by the run itself."""

    value: float
    error: float = 0.0


@dataclass(frozen=True)
class Difference:
    """The ratio of the later stretch to the earlier.

    Attributes:
        ratio: the estimate.
        low: lower end of its interval, at the level of the test.
        high: the upper end.
        visible: the smallest change, as a share, that would have been seen: the half-width of the interval.
    """

    ratio: float
    low: float
    high: float
    visible: float


def compare(earlier: Sequence[Sample], later: Sequence[Sample], spread: tuple[float, int], level: float) -> Difference:
    """Compare two stretches, of which ``spread`` tells τ² and its degrees of freedom, in a test of this level."""
    known = sum(math.fsum(one.error**2 for one in side) / len(side) ** 2 for side in (earlier, later))
    error = math.sqrt(spread[0] * (1 / len(earlier) + 1 / len(later)) + known)
    effect = _mean(later) - _mean(earlier)
    reach = error * _exceeded(level, spread[1])
    return Difference(_exp(effect), _exp(effect - reach), _exp(effect + reach), _exp(reach) - 1)


def spread(stretches: Sequence[Sequence[Sample]]) -> tuple[float, int]:
    """Estimate τ² from the scatter within stretches of one level, with its degrees of freedom.

    >>> spread([[Sample(0.0), Sample(2.0)], [Sample(5.0)]])
    (2.0, 1)
    """
    freedom = sum(len(stretch) - 1 for stretch in stretches)
    if freedom < 1:
        return 0.0, 0
    scatter = own = 0.0
    for stretch in stretches:
        middle = _mean(stretch)
        scatter += math.fsum((one.value - middle) ** 2 for one in stretch)
        own += math.fsum(one.error**2 for one in stretch) * (1 - 1 / len(stretch))
    return max(0.0, (scatter - own) / freedom), freedom


def starts(samples: Sequence[Sample], level: float) -> list[int]:
    """Give the first run of each stretch of one level: 0, and where the series has changed.

    ``level`` bounds the probability that a series without a change is said to have any.
    """
    count, found, waiting = len(samples), [0], [(0, len(samples))]
    while waiting:
        first, last = waiting.pop()
        places = [first + at for at in _changes(samples[first:last], count, level)]
        found += places
        waiting += pairwise([first, *places, last]) if places else ()
    return sorted(found)


def stretches(samples: Sequence[Sample], begins: Sequence[int]) -> list[Sequence[Sample]]:
    """Cut a series at the places that ``starts`` gives."""
    return [samples[first:last] for first, last in pairwise([*begins, len(samples)])]


def _changes(samples: Sequence[Sample], of: int, level: float) -> list[int]:
    """Find where a part of a series of ``of`` runs has most surely changed: at one place, or for a while."""
    count = len(samples)
    if count < LEAST:
        return []
    sums = _Sums(samples)
    places = [(place, count) for place in range(1, count)]
    if best := _surest(sums, places, level / 2 / (of - 1), count - 2):
        return [best[0]]
    # For two runs at least: a single one that is off is no level.
    whiles = [(first, last) for first in range(1, count - 2) for last in range(first + 2, count)]
    return list(_surest(sums, whiles, level / 2 / max(1, (of - 2) * (of - 3) / 2), count - 2) or ())


def _surest(sums: _Sums, parts: Sequence[tuple[int, int]], level: float, freedom: int) -> tuple[int, int] | None:
    """Choose the part that differs most surely from what is around it; None where none does, each at this level.

    There are as many degrees of freedom for each, so that the largest t is the least probable one.
    """
    least, best = _exceeded(level, freedom), None
    for first, last in parts:
        t = sums.t(first, last)
        if t > least:
            least, best = t, (first, last)
    return best


class _Sums:
    """Sums up to each run, by which any part is compared with what is around it in a few steps."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        middle = _mean(samples)
        self._count = len(samples)
        self._sums = [(0.0, 0.0, 0.0)]
        for one in samples:
            value, square, error = self._sums[-1]
            away = one.value - middle
            self._sums.append((value + away, square + away * away, error + one.error**2))

    def t(self, first: int, last: int) -> float:
        """Divide the difference of the runs from ``first`` to ``last`` and the others by its standard error."""
        inside = [b - a for a, b in zip(self._sums[first], self._sums[last], strict=True)]
        outside = [whole - part for whole, part in zip(self._sums[-1], inside, strict=True)]
        scatter = own = known = shares = 0.0
        for count, (value, square, error) in ((last - first, inside), (self._count - last + first, outside)):
            scatter += max(0.0, square - value * value / count)
            own += error * (1 - 1 / count)
            known += error / count**2
            shares += 1 / count
        variance = max(0.0, (scatter - own) / (self._count - 2))
        effect = inside[0] / (last - first) - outside[0] / (self._count - last + first)
        error = math.sqrt(variance * shares + known)
        return abs(effect) / error if error else (math.inf if effect else 0.0)


def _mean(samples: Sequence[Sample]) -> float:
    return math.fsum(one.value for one in samples) / len(samples)


def _exp(value: float) -> float:
    """Exponentiate within what can be computed with."""
    return math.exp(max(-600.0, min(600.0, value)))
