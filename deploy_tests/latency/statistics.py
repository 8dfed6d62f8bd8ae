"""The few statistics that a latency needs: percentiles, the interval of a median, the interval of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

#: What is stated of a latency.
PERCENTILES = (50, 90, 95, 99)
#: Two-sided 95 % quantile of the normal distribution.
_NORMAL = 1.959963984540054
#: Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def percentile(samples: ArrayLike, share: float) -> float:
    """Take the nearest-rank percentile: a value that was measured, never one between two.

    >>> percentile([1, 2, 3, 4], 50), percentile([1, 2, 3, 4], 90)
    (2.0, 4.0)
    """
    values = np.sort(np.asarray(samples, dtype=np.float64))
    return float(values[max(0, math.ceil(share / 100 * len(values)) - 1)])


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """Take the percentiles that are stated of a latency, by name; none where there are no samples.

    >>> percentiles([1.0, 2.0, 3.0])["p50"], percentiles([])
    (2.0, {})
    """
    return {f"p{p}": percentile(samples, p) for p in PERCENTILES} if len(samples) else {}


def median(samples: ArrayLike) -> Interval:
    """Estimate the median with a distribution-free interval from order statistics (binomial, normal approximation).

    >>> median(range(1, 101))
    Interval(estimate=50.0, low=40.0, high=61.0)
    """
    middle = quantile(samples, 50)
    return Interval(middle.estimate, middle.low, min(middle.high, float(np.max(np.asarray(samples)))))


def quantile(samples: ArrayLike, share: float) -> Interval:
    """Estimate a percentile with a distribution-free interval from order statistics (normal approximation).

    Where there are too few samples to bound it from above, the interval ends at infinity.

    >>> quantile(range(1, 1001), 90)
    Interval(estimate=900.0, low=881.0, high=920.0)
    >>> quantile(range(1, 21), 99).high
    inf
    """
    values = np.sort(np.asarray(samples, dtype=np.float64))
    n, p = len(values), share / 100
    reach = _NORMAL * math.sqrt(n * p * (1 - p))
    low, high = max(0, math.floor(n * p - reach) - 1), math.ceil(n * p + reach)
    return Interval(percentile(values, share), float(values[low]), float(values[high]) if high < n else math.inf)


def ratio(logarithms: Sequence[float]) -> Interval:
    """Estimate the geometric mean of two or more ratios with Student's interval, from their logarithms.

    >>> ratio([0.0, 0.0, 0.0])
    Interval(estimate=1.0, low=1.0, high=1.0)
    """
    found = mean(logarithms)
    return Interval(math.exp(found.estimate), math.exp(found.low), math.exp(found.high))


def mean(values: Sequence[float]) -> Interval:
    """Estimate the mean of two or more figures with Student's interval.

    >>> mean([1.0, 1.0])
    Interval(estimate=1.0, low=1.0, high=1.0)
    """
    found, n = np.asarray(values, dtype=np.float64), len(values)
    if n < 2:
        raise ValueError(f"an interval needs two figures at least, got {n}")
    middle, reach = float(found.mean()), _student(n - 1) * float(found.std(ddof=1)) / math.sqrt(n)
    return Interval(middle, middle - reach, middle + reach)


def _student(freedom: int) -> float:
    """Take the two-sided 95 % quantile of Student's t: from the table, beyond it by its expansion.

    The expansion is Cornish's and Fisher's (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5).
    """
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
