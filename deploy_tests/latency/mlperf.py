"""The MLPerf single-stream figure: the 90th percentile, with the early-stopping penalty for few queries.

    h(t) = the fewest queries under the percentile for which   P( Binomial(h + t, 1 - p) ≤ t ) ≤ 1 - c

With n queries, t is the largest count for which h(t) + t ≤ n, and the t-th highest latency is the estimate: above the
true percentile with confidence c = 99 %. Fewer than 64 queries give no p90 at all (t must be 1 at least).

The rule: MLPerf Inference Rules, "Scenarios" and "Early Stopping"
(https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc). A result that may carry the name
runs 600 s under LoadGen on a named task; what is here is the same statistic, no submission.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from attn_export.errors import InconclusiveError

#: The shortest run that the rules accept, in seconds.
RULED_DURATION = 600.0


@dataclass(frozen=True)
class SingleStream:
    """The estimate in milliseconds, the plain percentile beside it, and how it came about."""

    estimate_ms: float
    percentile_ms: float
    queries: int
    discarded: int
    percentile: float
    confidence: float
    duration_s: float

    @property
    def long_enough(self) -> bool:
        """Whether the run lasted as long as the rules ask of a submission."""
        return self.duration_s >= RULED_DURATION

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "rule": "MLPerf Inference Rules: single stream, early stopping", "submission": False}


def fewest(over: int, share: float = 0.9, confidence: float = 0.99) -> int:
    """Count the fewest queries in all, ``over`` of them beyond the percentile, that allow to state it.

    >>> fewest(0), fewest(1), fewest(0, share=0.99)
    (44, 64, 459)
    """
    low, high = over + 1, over + 2
    while _tail(high, over, 1 - share) > 1 - confidence:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _tail(middle, over, 1 - share) > 1 - confidence else (low, middle)
    return low


def single_stream(wall: Sequence[int], share: float = 0.9, confidence: float = 0.99) -> SingleStream:
    """Estimate the percentile of wall times in nanoseconds by the early-stopping rule.

    Raises:
        InconclusiveError: too few queries to state the percentile.
    """
    n = len(wall)
    if n < (least := fewest(1, share, confidence)):
        raise InconclusiveError(f"MLPerf's p{share * 100:g} needs {least} queries, got {n}: use --iterations {least}")
    low, high = 1, n  # the largest t whose tail at n still gives the confidence
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _tail(n, middle, 1 - share) <= 1 - confidence else (low, middle - 1)
    values = np.sort(np.asarray(wall, dtype=np.float64))
    plain = float(values[math.ceil(share * n) - 1])
    return SingleStream(float(values[n - low]) / 1e6, plain / 1e6, n, low, share, confidence, float(values.sum()) / 1e9)


def _tail(n: int, most: int, chance: float) -> float:
    """P(Binomial(n, chance) ≤ most), by logarithms so that large n cannot underflow term by term."""
    if most >= n:
        return 1.0
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))))
    k = np.arange(most + 1)
    logs = (
        log_factorial[n]
        - log_factorial[k]
        - log_factorial[n - k]
        + k * math.log(chance)
        + (n - k) * math.log1p(-chance)
    )
    peak = float(logs.max())
    return min(1.0, math.exp(peak) * float(np.exp(logs - peak).sum()))
