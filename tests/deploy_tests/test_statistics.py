"""The intervals of latencies: Student's quantiles by integration, and coverage by simulation and by counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attn_export.deploy_tests.latency import statistics
from attn_export.deploy_tests.latency.statistics import Interval, median, percentile, percentiles, quantile, ratio

#: Draws of a simulation, and the standard deviation of a share of 95 % in them.
DRAWS = 10_000
SPREAD = math.sqrt(0.95 * 0.05 / DRAWS)
#: ``scipy.stats.t.ppf(0.975, freedom)`` of SciPy 1.17.1.
SCIPY = {
    1: 12.706204736, 2: 4.30265273, 5: 2.570581836, 12: 2.17881283, 30: 2.042272456,
    31: 2.039513446, 39: 2.02269092, 60: 2.000297822, 120: 1.979930405, 1000: 1.962339081,
}  # fmt: skip


def student(freedom: int, inside: float = 0.95) -> float:
    """The two-sided quantile: P(|T| ≤ t) = 2c ∫₀^atan(t/√ν) cosᵛ⁻¹θ dθ, integrated and inverted by bisection."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    c = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        share = 2 * c * angle / 2 * float(weights @ np.cos(angle * (nodes + 1) / 2) ** (freedom - 1))
        low, high = (angle, high) if share < inside else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def width(n: int, seed: int = 0) -> float:
    """How many standard errors the interval of n ratios reaches to each side."""
    logs = np.random.default_rng(seed).normal(0.3, 0.02, n)
    came = ratio(logs.tolist())
    error = math.sqrt(sum((x - logs.mean()) ** 2 for x in logs) / (n - 1)) / math.sqrt(n)
    return math.log(came.high / came.low) / 2 / error


@pytest.mark.parametrize("freedom", SCIPY)
def test_the_judge_agrees_with_scipy(freedom: int) -> None:
    assert student(freedom) == pytest.approx(SCIPY[freedom], abs=2e-9)


@pytest.mark.parametrize("freedom", [*range(1, 31), 31, 32, 39, 60, 100, 500, 5000])
def test_the_interval_of_a_ratio_is_as_wide_as_students_quantile_says(freedom: int) -> None:
    assert width(freedom + 1) == pytest.approx(student(freedom), abs=0.00051 if freedom <= 30 else 1e-4)


def test_the_table_ends_where_the_expansion_is_good_enough() -> None:
    assert len(statistics._STUDENT) == 30
    widths = [width(n) for n in range(2, 200)]
    assert widths == sorted(widths, reverse=True), "more ratios never make it wider"
    assert widths[-1] > 1.96, "Student's is wider than the normal's, however many"


@pytest.mark.parametrize("n", [2, 3, 5, 12, 40])
def test_the_interval_of_a_ratio_covers_the_truth_in_95_of_100(n: int) -> None:
    logs = np.random.default_rng(n).normal(0.1, 0.05, (DRAWS, n))
    found = [ratio(row) for row in logs]
    inside = sum(came.low <= math.exp(0.1) <= came.high for came in found) / DRAWS
    assert inside == pytest.approx(0.95, abs=4 * SPREAD)


def test_the_estimate_is_the_geometric_mean_and_lies_in_the_middle() -> None:
    came = ratio([math.log(2), math.log(8)])
    assert came.estimate == pytest.approx(4)
    assert came.low * came.high == pytest.approx(16)
    with pytest.raises(ValueError, match="two figures at least, got 1"):
        ratio([0.0])


def ranks(n: int, share: float) -> tuple[int, int]:
    """Which of n sorted values the interval goes between, counted from one; n + 1 stands for infinity."""
    came = quantile(range(1, n + 1), share)
    return int(came.low), n + 1 if math.isinf(came.high) else int(came.high)


def covered(n: int, p: float, low: int, high: int) -> float:
    """How often the p-quantile lies between two order statistics: as many draws as low to high - 1 lie below it."""
    return math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(low, high))


@pytest.mark.parametrize("share", [50, 90, 95, 99])
@pytest.mark.parametrize("n", [10, 20, 57, 100, 200, 1000])
def test_the_interval_of_a_percentile_covers_it_by_count(n: int, share: float) -> None:
    low, high = ranks(n, share)
    p = share / 100
    tail = (1 - p) ** n if low == 1 else 0.0  # none below it: the smallest is the best that can be said
    assert covered(n, p, low, high) + tail >= 0.945
    assert covered(n, p, low + 2, high - 2) < 0.95, "no wider than rounding ranks outwards makes it"


@pytest.mark.parametrize(
    ("n", "share", "low", "high"),
    [(100, 50, 40, 61), (1000, 90, 881, 920), (1000, 50, 469, 532), (20, 99, 18, 21), (8, 50, 1, 8), (3, 50, 1, 4)],
)
def test_between_which_samples_the_interval_lies(n: int, share: float, low: int, high: int) -> None:
    assert ranks(n, share) == (low, high)


@pytest.mark.parametrize("n", [5, 12, 40])
def test_the_interval_of_a_median_covers_it_where_the_samples_can(n: int) -> None:
    draws = np.random.default_rng(n).exponential(size=(DRAWS // 2, n))
    inside = sum(came.low <= math.log(2) <= came.high for came in map(median, draws)) / len(draws)
    low, high = ranks(n, 50)
    assert inside == pytest.approx(covered(n, 0.5, low, min(high, n)), abs=4 * SPREAD * math.sqrt(2))


def test_a_median_has_an_end_where_a_quantile_has_none() -> None:
    assert median([3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0)
    assert quantile([3.0, 1.0, 2.0], 50) == Interval(2.0, 1.0, math.inf)
    assert median(range(1, 101)) == quantile(range(1, 101), 50)


@pytest.mark.parametrize(
    ("share", "wanted"), [(0, 1), (10, 1), (10.1, 2), (50, 5), (50.1, 6), (90, 9), (99, 10), (100, 10)]
)
def test_a_percentile_is_the_smallest_sample_that_so_many_do_not_exceed(share: float, wanted: int) -> None:
    values = [7, 3, 10, 1, 5, 9, 2, 8, 4, 6]
    assert percentile(values, share) == wanted
    assert sum(v <= wanted for v in values) * 10 >= share


def test_percentiles_have_their_names() -> None:
    assert percentiles(list(range(1, 1001))) == {"p50": 500, "p90": 900, "p95": 950, "p99": 990}
    assert percentiles([]) == {}
    assert str(Interval(1.23456, 1.0, 2.0)) == "1.235 [1.000, 2.000]"
