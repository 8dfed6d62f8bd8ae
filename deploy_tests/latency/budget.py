"""Budgets: what the user allows a model to cost, and whether it keeps to it.

Each is an interval against a limit, and has three answers: **passed** (the whole interval lies within), **failed**
(all of it lies beyond), and **inconclusive**. A failed one is exit 1, an inconclusive one exit 5.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from attn_export.deploy_tests.latency.comparison import LatencyComparison
from attn_export.deploy_tests.latency.footprint import Footprint
from attn_export.deploy_tests.latency.measure import Latency
from attn_export.deploy_tests.latency.statistics import Interval, quantile
from attn_export.errors import GateError, InconclusiveError, UsageError

_TIMES = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_SIZES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_UNITS = {"p50": _TIMES, "p90": _TIMES, "p95": _TIMES, "p99": _TIMES, "cold-start": _TIMES} | {
    "memory": _SIZES,
    "size": _SIZES,
}
#: Between two runs one after the other the CPU time of one model differs by 3 to 5 % (standard deviation): what two
#: reports can tell apart is limited by that, however many samples each holds.
BETWEEN_RUNS = 0.04


@dataclass(frozen=True)
class Budget:
    """A limit: of what, how much (milliseconds or bytes), and as it was typed."""

    metric: str
    limit: float
    text: str


@dataclass(frozen=True)
class BudgetResult:
    """How one budget came out."""

    text: str
    measured: Interval
    limit: float
    unit: str

    @property
    def verdict(self) -> str:
        """``passed``, ``failed``, or ``inconclusive``."""
        if self.measured.high <= self.limit:
            return "passed"
        return "failed" if self.measured.low > self.limit else "inconclusive"

    def summary(self) -> str:
        """Say it in one line."""
        scale, unit = (1e6, "MB") if self.unit == "B" else (1.0, self.unit)
        low, value, high = (end / scale for end in (self.measured.low, self.measured.estimate, self.measured.high))
        came = (f"{value:.4g}" if low == high else f"{value:.4g} [{low:.4g}, {high:.4g}]") + f" {unit}"
        return f"{self.text}: {self.verdict}, measured {came}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an end that could not be bounded is None, since JSON has no infinity."""
        plain = asdict(self)
        ends = plain["measured"].items()
        plain["measured"] = {end: value if math.isfinite(value) else None for end, value in ends}
        return {**plain, "verdict": self.verdict}


def parse(text: str) -> Budget:
    """Read a budget such as ``p90<=15ms``, ``memory<=200MB``, ``size<=10MiB`` or ``cold-start<=0.5s``.

    >>> parse("p90<=15ms")
    Budget(metric='p90', limit=15.0, text='p90<=15ms')

    Raises:
        UsageError: it is none of these.
    """
    match = re.fullmatch(r"\s*([a-z0-9-]+)\s*<=?\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([A-Za-zµ]+)\s*", text)
    units: Mapping[str, float] = _UNITS.get(match[1], {}) if match else {}
    if not match or not units:
        raise UsageError(f"a budget is such as p90<=15ms, of one of {', '.join(_UNITS)}; got {text!r}")
    if match[3] not in units:
        raise UsageError(f"{match[1]} is given in {', '.join(units)}; got {text!r}")
    return Budget(match[1], float(match[2]) * units[match[3]], text.strip())


def percent(text: str) -> float:
    """Read a share such as ``3%`` or ``0.03``.

    >>> percent("3%"), percent("0.03")
    (0.03, 0.03)

    Raises:
        UsageError: it is none, or negative.
    """
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(f"a share is such as 3% or 0.03; got {text!r}")
    return value


def check_budget(budget: Budget, latency: Latency, footprint: Footprint | None = None) -> BudgetResult:
    """Hold one budget against what was measured.

    Raises:
        UsageError: it is about a footprint, and none was taken or the system does not tell it.
    """
    if budget.metric.startswith("p"):
        wall = quantile(latency.wall, float(budget.metric[1:]))
        came, unit = Interval(wall.estimate / 1e6, wall.low / 1e6, wall.high / 1e6), "ms"
    else:
        value, unit = _measured(budget, footprint)
        came = Interval(value, value, value)
    return BudgetResult(budget.text, came, budget.limit, unit)


def _measured(budget: Budget, footprint: Footprint | None) -> tuple[float, str]:
    if footprint is None:
        raise UsageError(f"{budget.text}: no footprint was measured")
    if budget.metric == "cold-start":
        return footprint.cold_start_s * 1e3, "ms"
    value = footprint.peak_bytes if budget.metric == "memory" else footprint.file_bytes
    if value is None:
        raise UsageError(f"{budget.text}: this system does not tell the peak memory of a process")
    return float(value), "B"


def faster(comparison: LatencyComparison, other: str) -> BudgetResult:
    """``--faster-than``: the ratio must lie below 1. A void comparison says nothing, whatever its ratio.

    A difference that lies inside the control's is none that was shown, so the interval is widened to the control's.
    """
    low, high = comparison.ratio.low, comparison.ratio.high
    if comparison.verdict in ("void", "no difference shown"):
        low, high = min(low, 1.0), max(high, math.nextafter(1.0, 2))
    return BudgetResult(f"faster than {other}", Interval(comparison.ratio.estimate, low, high), 1.0, "× its time")


def regression(comparison: LatencyComparison, most: float) -> BudgetResult:
    """``--max-regression`` where the baseline's model is at hand: the interleaved ratio against 1 + ``most``."""
    came = comparison.ratio
    if comparison.void:
        came = Interval(came.estimate, min(came.low, 1.0), max(came.high, 1 + most + 1e-9))
    return BudgetResult(f"at most {100 * most:.3g} % slower than the baseline", came, 1 + most, "× its time")


def regression_of_reports(now: Mapping[str, Any], then: Mapping[str, Any], most: float) -> BudgetResult:
    """``--max-regression`` from two report.json runs: the ratio of CPU medians, as wide as two runs differ anyway.

    Raises:
        UsageError: they are of different machines, backends or threads, or hold no latency.
    """
    try:
        seats = [
            (
                *(run[key] for key in ("backend", "version", "device")),
                run["environment"]["processor"],
                run["latency"]["threads"],
            )
            for run in (now, then)
        ]
        one, other = (float(run["latency"]["cpu_ms"]["p50"]) for run in (now, then))
    except (KeyError, TypeError) as error:
        raise UsageError(f"a baseline is a report.json with a latency in it; {error} is missing") from error
    if not 0 < one < math.inf or not 0 < other < math.inf:
        raise UsageError(f"a baseline's CPU time is above zero; this run has {one:g} ms, the baseline {other:g} ms")
    if seats[0] != seats[1]:
        raise UsageError(
            f"the baseline is from {seats[1]}, this run from {seats[0]}; measure the baseline's bundle here,"
            " beside this one: `attn-export bench THIS BASELINE`"
        )
    middle, reach = math.log(one / other), 1.96 * math.sqrt(2) * BETWEEN_RUNS
    came = Interval(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))
    return BudgetResult(f"at most {100 * most:.3g} % slower than the baseline report", came, 1 + most, "× its CPU time")


def gate(findings: Iterable[BudgetResult]) -> None:
    """Fail where a budget failed, or cannot be judged.

    Raises:
        GateError: one failed.
        InconclusiveError: none failed, but one is inconclusive.
    """
    rows = list(findings)
    if failed := [row.summary() for row in rows if row.verdict == "failed"]:
        raise GateError("; ".join(failed))
    if open_ := [row.summary() for row in rows if row.verdict != "passed"]:
        raise InconclusiveError("; ".join(open_) + "; measure longer, or on a quieter machine")
