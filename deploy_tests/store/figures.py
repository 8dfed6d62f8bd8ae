"""What of a report is followed over time: times, ratios and errors, each with its interval or its limit.

A report comes from anywhere. Whatever of it is missing or of another kind gives no figure, and nothing breaks on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from attn_export.deploy_tests.store.record import Record, Subject

Metric = Literal["time", "ratio", "error"]
#: Times that one process gave, and those of several: they differ in what their intervals mean, so they are two series.
ONE, FRESH = "one process", "fresh processes"
#: Two-sided 95 % quantile of the normal distribution.
NORMAL = 1.959963984540054


@dataclass(frozen=True)
class Figure:
    """One figure of one run.

    Attributes:
        metric: a time in ms, the ratio of two times, or an error.
        how: how it was measured, or against what: figures of two kinds are two series.
        unit: of it: ``ms``, ``x``, ``k`` (normalized error), or ``dB``.
        estimate: the figure; None where there is none, such as an error that is infinite.
        low: lower end of its 95 % interval, for what has one.
        high: the upper end.
        control_low: lower end of the control: the same model against itself in that run.
        control_high: the upper end; both None where there was no control.
        limit: what an error is held to.
        ok: whether it is held; True for what has no limit.
    """

    metric: Metric
    how: str
    unit: str
    estimate: float | None
    low: float | None = None
    high: float | None = None
    control_low: float | None = None
    control_high: float | None = None
    limit: float | None = None
    ok: bool = True


def figures(run: Record) -> Iterator[tuple[int, Figure]]:
    """Give every figure of a run, with the place of its subject."""
    runs, seen = _list(run.report.get("runs")), set[Subject]()
    for place, (subject, plain) in enumerate(zip(run.subjects, runs, strict=False)):
        alike = replace(subject, digest="", version="")
        if isinstance(plain, Mapping):
            # Of two bundles of one subject that are compared, the first is the newer; the other is its baseline.
            own = (one for one in _of_run(subject, plain) if one.metric != "time" or alike not in seen)
            yield from ((place, figure) for figure in own)
        seen.add(alike)
    compared = run.report.get("comparison")
    if len(run.subjects) == 2 and (found := _ratio(compared, _called(run.subjects[1]))):
        yield 0, found


def _of_run(subject: Subject, plain: Mapping[str, Any]) -> Iterator[Figure]:
    if repeated := _repeated(plain.get("repeated")):
        yield repeated
    elif latency := _latency(plain.get("latency"), subject.clock):
        yield latency
    if found := _ratio(plain.get("comparison"), ""):
        yield found
    # What was drawn anew, or is the user's own, is another question each time.
    if isinstance(parity := plain.get("parity"), Mapping) and "level" not in plain:
        yield _error(parity)


def _repeated(plain: Any) -> Figure | None:
    if not isinstance(plain, Mapping) or (time := _interval(plain.get("time_ms"))) is None:
        return None
    return Figure("time", FRESH, "ms", *time, *(_interval(plain.get("control")) or (0, None, None))[1:])


def _latency(plain: Any, clock: str) -> Figure | None:
    """Give the median of the samples of one process, with its distribution-free interval."""
    kept = plain.get("samples") if isinstance(plain, Mapping) else None
    if not isinstance(kept, Mapping):
        return None
    values = sorted(_numbers(_list(kept.get("cpu_ns" if clock == "CPU time" else "wall_ns"))))
    count = len(values)
    if not count or values[0] <= 0:
        return None
    reach = NORMAL * math.sqrt(count) / 2
    low, high = max(0, math.floor(count / 2 - reach) - 1), min(count - 1, math.ceil(count / 2 + reach))
    middle = values[max(0, math.ceil(count / 2) - 1)]
    return Figure("time", ONE, "ms", middle / 1e6, values[low] / 1e6, values[high] / 1e6)


def _ratio(plain: Any, baseline: str) -> Figure | None:
    if not isinstance(plain, Mapping) or (ratio := _interval(plain.get("ratio"))) is None:
        return None
    control = _interval(plain.get("control"))
    if control is None:
        return None  # without the machine's control it says nothing
    name = baseline or str(plain.get("baseline", ""))[:1000]
    return Figure("ratio", f"over {name}", "x", *ratio, *control[1:])


def _error(parity: Mapping[str, Any]) -> Figure:
    """Give the worst of what a parity compared, in the unit that it was judged in."""
    ok = parity.get("ok") is True
    rows = [row for row in _list(parity.get("comparisons")) if isinstance(row, Mapping)]
    if centred := [one for one in _list(parity.get("centred")) if isinstance(one, Mapping)]:
        outputs = [one.get("median_db") for one in _list(centred[0].get("outputs")) if isinstance(one, Mapping)]
        worst, limit = min(_numbers(outputs), default=None), _number(centred[0].get("limit_db"))
        return Figure("error", "what varies", "dB", worst, limit=limit, ok=ok)
    if (limit := _number(parity.get("snr_db_limit"))) is not None:
        worst = min(_numbers(row.get("snr_db") for row in rows), default=None)
        return Figure("error", "signal to noise", "dB", worst, limit=limit, ok=ok)
    errors = _numbers(row.get("normalized_error") for row in rows)
    worst = max(errors, default=None) if len(errors) == len(rows) else None  # one of them is infinite
    return Figure("error", "normalized", "k", worst, limit=_number(parity.get("normalized_limit")), ok=ok)


def _numbers(values: Iterable[Any]) -> list[float]:
    return [number for value in values if (number := _number(value)) is not None]


def _called(subject: Subject) -> str:
    fused = " fused" if subject.fused else ""
    return f"{subject.name}{fused}, {subject.artifact} on {subject.backend}"


def _interval(plain: Any) -> tuple[float, float, float] | None:
    """Read an interval of positive numbers in their order."""
    if not isinstance(plain, Mapping):
        return None
    estimate, low, high = (_number(plain.get(end)) for end in ("estimate", "low", "high"))
    if estimate is None or low is None or high is None or not 0 < low <= estimate <= high:
        return None
    return estimate, low, high


def _number(value: Any) -> float | None:
    """Take a finite number that can be computed with; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        return None
    return float(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
