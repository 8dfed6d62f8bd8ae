"""Figures over time, by simulation: luck with a known spread is planted, and what never changed is said to be so."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attn_export.deploy_tests.history import change, judge, student
from attn_export.deploy_tests.history.change import Sample
from attn_export.deploy_tests.history.series import SLACK, Series, group, sample
from attn_export.deploy_tests.latency import comparison, statistics
from attn_export.deploy_tests.store.figures import Figure
from attn_export.deploy_tests.store.index import Point
from attn_export.deploy_tests.store.record import Machine, Subject, utc
from tests.floats import floats

HERE = Machine("id", "here", "processor", 2)
NET = Subject("net", artifact="model", backend="toy")
#: What one series has of the level, as ``judge`` gives it.
LEVEL = judge.LEVEL / 3
FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def series(
    values: Sequence[float], own: float = 0.005, *, control: float = 0.0, facts: Sequence[dict[str, Any]] | None = None
) -> Series:
    """Figures in ms with a half-width of the interval of 1.96 ``own``; a control of that bias."""
    half, bias = math.exp(1.96 * own), math.exp(control)
    points = [
        Point(
            f"runs/{i:02x}/{i:064x}.json",
            "bench",
            utc(i * 60),
            HERE,
            NET,
            Figure("time", "fresh", "ms", value, value / half, value * half, bias / half, bias * half),
            (facts or [{}] * len(values))[i],
        )
        for i, value in enumerate(values)
    ]  # fmt: skip
    return Series(HERE, NET, "time", "fresh", "ms", tuple(points))


def drawn(seed: int, count: int, between: float, own: float, *, at: int | None = None, step: float = 0.0) -> Series:
    rng = random.Random(seed)
    spread = math.hypot(between, own)
    levels = [math.log1p(step) if at is not None and i >= at else 0.0 for i in range(count)]
    return series([math.exp(level + rng.gauss(0, spread)) for level in levels], own)


def verdict(one: Series, most: float | None = None) -> judge.Judged:
    return judge.judge([one], most)[0]


def test_student_is_the_table_of_the_comparisons() -> None:
    for freedom, quantile in enumerate(statistics._STUDENT, 1):
        assert student.exceeded(0.05, freedom) == pytest.approx(quantile, abs=6e-4)
        assert student.beyond(quantile, freedom) == pytest.approx(0.05, abs=1e-4)
    assert student.exceeded(0.05, 100_000) == pytest.approx(1.95996, abs=1e-4)
    assert student.beyond(1.0, 1) == pytest.approx(0.5), "Cauchy"


def test_a_control_is_void_here_where_it_is_in_comparisons() -> None:
    assert SLACK == comparison.SLACK


@pytest.mark.parametrize(
    ("count", "between", "own"), [(4, 0.02, 0.0), (8, 0.02, 0.0), (8, 0.005, 0.02), (16, 0.02, 0.002)]
)
def test_false_alarms_stay_below_the_level(count: int, between: float, own: float) -> None:
    trials = 400
    found = [verdict(drawn(i, count, between, own)) for i in range(trials)]
    alarms = sum(bool(one.changes) or one.last is None or not one.last.low <= 1 <= one.last.high for one in found)
    # Two standard deviations of a count that is exactly at the level.
    assert alarms <= trials * judge.LEVEL + 2 * math.sqrt(trials * judge.LEVEL)


def test_false_alarms_are_shared_by_all_that_is_judged_at_once() -> None:
    def alarms(many: int) -> int:
        judged = [judge.judge([drawn(97 * i + j, 6, 0.02, 0.0) for j in range(many)]) for i in range(60)]
        return sum(any(one.changes or one.verdict == "failed" for one in row) for row in judged)

    assert alarms(12) <= 60 * judge.LEVEL + 2 * math.sqrt(60 * judge.LEVEL)


def test_the_simulation_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "_exceeded", lambda *_: 1.96)
    found = [verdict(drawn(i, 8, 0.02, 0.0)) for i in range(100)]
    assert sum(bool(one.changes) for one in found) > 30, "without the correction and Student's t"


@pytest.mark.parametrize("step", [0.05, -0.05])
def test_a_step_of_five_per_cent_is_found_where_runs_allow(step: float) -> None:
    found = [verdict(drawn(i, 10, 0.005, 0.005, at=5, step=step)) for i in range(60)]
    exact = [one for one in found if [row.first.recorded for row in one.changes] == [utc(300)]]
    assert len(exact) >= 57
    assert all(one.verdict == ("failed" if step > 0 else "passed") for one in exact)
    assert all(row.difference.low <= 1 + step <= row.difference.high for one in exact for row in one.changes)


def test_a_step_that_cannot_be_seen_is_not_and_its_size_is_said() -> None:
    found = [verdict(drawn(i, 10, 0.05, 0.005, at=5, step=0.05)) for i in range(60)]
    assert sum(bool(one.changes) for one in found) < 20
    quiet = [one.last.visible for one in found if one.last and one.verdict == "passed"]
    assert min(quiet) > 0.05


def test_the_last_run_alone_is_held_against_those_before() -> None:
    slow = verdict(series([1.0, 1.001, 0.999, 1.002, 1.0, 1.2]))
    assert (slow.verdict, "slower since" in slow.why) == ("failed", True)
    little = verdict(series([1.0, 1.005, 0.995, 1.004, 0.996, 1.0, 1.003, 0.997, 1.02], own=0.001))
    assert (little.verdict, little.changes) == ("failed", ()), "the planned test sees what the search does not"
    assert "the last run is slower: 1.02" in little.why
    assert verdict(series([1.0, 1.001, 0.999, 1.002, 1.0, 0.8])).verdict == "passed"
    same = verdict(series([1.0, 1.001, 0.999, 1.002, 1.0, 1.003]))
    assert (same.verdict, same.changes) == ("passed", ())
    assert same.last
    assert f"a change of {100 * same.last.visible:.2g} % would have been seen" in same.why


def test_a_change_keeps_failing_until_it_is_accepted_or_undone() -> None:
    slower = [1.0, 1.001, 0.999, 1.002, 1.2, 1.201, 1.199, 1.2]
    assert verdict(series(slower)).verdict == "failed"
    assert "slower since 000000000000 (1970-01-01 00:04)" in verdict(series(slower)).why
    assert verdict(series(slower[4:])).verdict == "passed", "--since leaves what was before"
    undone = verdict(series([*slower, 1.0, 1.001, 0.999]))
    assert (undone.verdict, len(undone.changes)) == ("passed", 2)


def test_what_is_accepted_decides_with_the_interval() -> None:
    values = [1.0, 1.001, 0.999, 1.002, 1.0, 1.05]
    assert verdict(series(values)).verdict == "failed"
    for most, came in ((0.01, "failed"), (0.05, "inconclusive"), (0.2, "passed")):
        assert verdict(series(values), most).verdict == came


@pytest.mark.parametrize(
    ("values", "why"),
    [([1.0], "1 of at least 3 runs"), ([1.0, 9.0], "2 of at least 3 runs"), ([1.0, 1.5, 1.2], "not even a doubling")],
)
def test_too_few_runs_tell_nothing(values: list[float], why: str) -> None:
    found = verdict(series(values))
    assert (found.verdict, why in found.why) == ("inconclusive", True), found.why


def test_a_run_whose_control_is_not_one_says_nothing() -> None:
    usual = series([1.0, 1.001, 0.999, 1.002, 1.0])
    void = replace(series([3.0], control=0.2).points[0], file="runs/ff/ff.json", recorded=utc(9999))
    last = replace(usual, points=(*usual.points, void))
    assert verdict(last).verdict == "inconclusive"
    middle = replace(usual, points=(*usual.points[:2], void, *usual.points[2:]))
    assert (verdict(middle).verdict, verdict(middle).changes) == ("passed", ())


def test_a_wide_control_counts_as_doubt() -> None:
    figure = Figure("time", "fresh", "ms", 1.0, 0.999, 1.001, 0.9, 1.1)
    assert sample(figure) == Sample(0.0, pytest.approx(-math.log(0.9) / 1.959964))  # type: ignore[arg-type]
    assert sample(replace(figure, control_high=None)).error < 0.001  # type: ignore[union-attr]
    assert sample(replace(figure, estimate=None)) is None


def test_an_error_is_held_to_its_own_limit() -> None:
    def point(k: float | None, ok: bool, at: int) -> Point:
        figure = Figure("error", "normalized", "k", k, limit=4.0, ok=ok)
        return Point(f"runs/00/{at}", "verify", utc(at), HERE, NET, figure, {})

    worse = [point(0.5, True, 0), point(3.9, True, 1)]
    assert verdict(group(worse)[0]).verdict == "passed"
    beyond = verdict(group([*worse, point(4.1, False, 2), point(None, False, 3)])[0])
    assert beyond.verdict == "failed"
    assert "since 2 (1970-01-01 00:00)" in beyond.why


def test_what_changed_with_it_is_told() -> None:
    facts = [{"toy": "1", "load": i, "bundle": "a"} for i in range(4)]
    facts += [{"toy": "2", "load": i, "bundle": "a"} for i in range(4)]
    (found,) = verdict(series([1.0, 1.001, 0.999, 1.0, 1.5, 1.501, 1.499, 1.5], facts=facts)).changes
    assert found.because == {"toy": ("1", "2")}


def test_machines_runtimes_and_sizes_are_never_in_one_series() -> None:
    (point,) = series([1.0]).points
    names = ("backend", "precision", "inputs", "clock", "artifact")
    others = [
        replace(point, machine=replace(HERE, id="other")),
        replace(point, machine=replace(HERE, cores=1)),
        replace(point, machine=replace(HERE, emulated="qemu")),
        *(replace(point, subject=replace(NET, **{name: "other"})) for name in names),
        replace(point, subject=replace(NET, threads=2)),
        replace(point, subject=replace(NET, fused=True)),
        replace(point, figure=replace(point.figure, how="one process")),
    ]  # fmt: skip
    same = [
        replace(point, subject=replace(NET, digest="sha256:1", version="2")),
        replace(point, machine=replace(HERE, name="renamed")),
    ]
    assert [len(one.points) for one in group([point, *others, *same])] == [3, *[1] * len(others)]


@FEW
@given(st.lists(floats(1e-6, 1e6), min_size=1, max_size=12), floats(0, 2))
def test_any_series_has_a_verdict(values: list[float], own: float) -> None:
    found = verdict(series(values, own))
    assert found.verdict in ("passed", "failed", "inconclusive")
    if found.last:
        assert found.last.low <= found.last.ratio <= found.last.high


@FEW
@given(st.lists(floats(-1, 1), min_size=3, max_size=10), floats(-5, 5), st.integers(0, 3))
def test_the_unit_does_not_matter(values: list[float], shift: float, scale: int) -> None:
    own = [Sample(value, 0.01) for value in values]
    moved = [Sample(value + shift, 0.01) for value in values]
    assert change.starts(own, LEVEL) == change.starts(moved, LEVEL)
    known = change.spread([own])[0]
    assert change.spread([moved])[0] == pytest.approx(known, abs=1e-9)
