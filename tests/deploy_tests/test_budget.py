"""Budgets: what is read, what is kept, what is broken, and what nobody can say."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from attn_export.deploy_tests.latency import budget
from attn_export.deploy_tests.latency.budget import (
    Budget,
    BudgetResult,
    check_budget,
    faster,
    gate,
    parse,
    percent,
    regression,
)
from attn_export.deploy_tests.latency.comparison import LatencyComparison
from attn_export.deploy_tests.latency.footprint import Footprint
from attn_export.deploy_tests.latency.measure import Latency
from attn_export.deploy_tests.latency.statistics import Interval
from attn_export.errors import GateError, InconclusiveError, UsageError

MS = 1_000_000
TIMED = Latency(tuple(range(10 * MS, 11 * MS, 1000)), (10 * MS,) * 1000, 1, 0.1)
WEIGHED = Footprint(0.1, 0.2, 0.05, 300_000_000, 100_000_000, 33_000_000)
NOTHING = Interval(1.0, 0.99, 1.01)


def contest(low: float, high: float, control: Interval = NOTHING) -> LatencyComparison:
    return LatencyComparison(Interval(math.sqrt(low * high), low, high), control, "CPU time", ())


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("p90<=15ms", "p90", 15),
        (" p50 < 200 us ", "p50", 0.2),
        ("p99<=1.5s", "p99", 1500),
        ("memory<=200MB", "memory", 2e8),
        ("size<=10MiB", "size", 10 * 2**20),
        ("cold-start<=.5s", "cold-start", 500),
    ],
)
def test_budgets_are_read(text: str, metric: str, limit: float) -> None:
    assert parse(text) == Budget(metric, limit, text.strip())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("p90", "such as"),
        ("p90>=15ms", "such as"),
        ("p42<=15ms", "one of p50"),
        ("p90<=15", "such as"),
        ("p90<=15MB", "given in ns"),
        ("memory<=15ms", "given in B"),
        ("", "such as"),
    ],
)
def test_what_is_no_budget_is_a_usage_error(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse(text)


@pytest.mark.parametrize("text", ["", "x", "-3%", "nan", "inf"])
def test_what_is_no_share_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="3%"):
        percent(text)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("p50<=10.6ms", "passed"),
        ("p50<=10.4ms", "failed"),
        ("p50<=10.5ms", "inconclusive"),
        ("p90<=11ms", "passed"),
        ("p99<=10ms", "failed"),
        ("memory<=300MB", "passed"),
        ("memory<=299MB", "failed"),
        ("size<=30MB", "failed"),
        ("cold-start<=351ms", "passed"),
        ("cold-start<=349ms", "failed"),
    ],
)
def test_a_budget_is_kept_broken_or_too_close(text: str, verdict: str) -> None:
    finding = check_budget(parse(text), TIMED, WEIGHED)
    assert finding.verdict == verdict
    assert verdict in finding.summary()


def test_a_tail_that_too_few_samples_bound_cannot_be_kept() -> None:
    few = Latency((MS,) * 20, (MS,) * 20, 1, 0.1)
    finding = check_budget(parse("p99<=5ms"), few)
    assert finding.verdict == "inconclusive"
    assert json.loads(json.dumps(finding.to_dict(), allow_nan=False))["measured"]["high"] is None


def test_a_budget_on_what_was_not_measured_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no footprint"):
        check_budget(parse("memory<=1GB"), TIMED)
    with pytest.raises(UsageError, match="does not tell"):
        check_budget(parse("memory<=1GB"), TIMED, Footprint(0, 0, 0, None, None, 1))


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (contest(0.95, 0.97), "passed"),
        (contest(1.02, 1.04), "failed"),
        (contest(0.98, 1.02), "inconclusive"),
        (contest(0.985, 0.995, Interval(1.0, 0.97, 1.03)), "inconclusive"),  # inside the control
        (contest(0.5, 0.6, Interval(1.05, 1.02, 1.08)), "inconclusive"),  # void
    ],
)
def test_faster_than(result: LatencyComparison, verdict: str) -> None:
    assert faster(result, "plain").verdict == verdict


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (contest(0.99, 1.02), "passed"),
        (contest(1.04, 1.06), "failed"),
        (contest(1.01, 1.05), "inconclusive"),
        (contest(0.99, 1.01, Interval(1.05, 1.02, 1.08)), "inconclusive"),
        (contest(1.2, 1.3, Interval(1.05, 1.02, 1.08)), "inconclusive"),
    ],
)
def test_regression_by_the_interleaved_ratio(result: LatencyComparison, verdict: str) -> None:
    assert regression(result, 0.03).verdict == verdict


def run(cpu: float, processor: str = "A", backend: str = "onnxruntime", threads: int = 1) -> dict[str, Any]:
    latency = {"threads": threads, "cpu_ms": {"p50": cpu}}
    seat = {"backend": backend, "version": "1.32.0", "device": "cpu"}
    return {**seat, "environment": {"processor": processor}, "latency": latency}


@pytest.mark.parametrize(
    ("cpu", "most", "verdict"), [(10, 0.15, "passed"), (10, 0.03, "inconclusive"), (13, 0.03, "failed")]
)
def test_two_reports_cannot_tell_three_per_cent(cpu: float, most: float, verdict: str) -> None:
    assert budget.regression_of_reports(run(cpu), run(10), most).verdict == verdict


@pytest.mark.parametrize("other", [run(10, "B"), run(10, backend="tensorrt_rtx"), run(10, threads=2)])
def test_reports_of_different_seats_are_not_compared(other: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="the baseline is from"):
        budget.regression_of_reports(run(10), other, 0.03)


def test_a_report_without_latency_is_no_baseline() -> None:
    with pytest.raises(UsageError, match="missing"):
        budget.regression_of_reports(run(10), {**run(10), "latency": None}, 0.03)


def finding(low: float, high: float) -> BudgetResult:
    return BudgetResult("p90<=15ms", Interval((low + high) / 2, low, high), 15, "ms")


def test_the_gate_passes_fails_or_says_that_it_cannot_say() -> None:
    gate([])
    gate([finding(10, 11)])
    with pytest.raises(GateError, match=r"p90<=15ms: failed, measured 16\.5") as broken:
        gate([finding(10, 11), finding(16, 17), finding(14, 16)])
    assert broken.value.exit_code == 1
    with pytest.raises(InconclusiveError, match="inconclusive") as unsure:
        gate([finding(10, 11), finding(14, 16)])
    assert unsure.value.exit_code == 5
