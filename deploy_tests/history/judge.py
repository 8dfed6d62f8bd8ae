"""The verdict on each series: where it has changed, and whether its last run is worse than those before.

Three tests are made of each series: whether it has changed anywhere, whether the earlier runs have (which tells what
the last one is held against), and whether the last run differs from those. Each has a third of the level, divided by
the number of series, so that of all that is said of a subject whose figures never changed, the probability of a single
false alarm is below ``LEVEL``. That holds where runs are independent of each other; where each run resembles the one
before (a machine that slowly warms up), false alarms of a change are more frequent, which docs/history.md has figures
of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from attn_export.deploy_tests.history import change
from attn_export.deploy_tests.history.change import Difference, Sample
from attn_export.deploy_tests.history.series import Series, is_void, sample
from attn_export.deploy_tests.store.index import Point

#: The probability of a false alarm, over everything that is judged at once.
LEVEL = 0.05
_TESTS = 3
#: A test that would not have seen a doubling has seen nothing, and passes nobody.
_BLIND = 1.0
#: What differs from run to run, and explains nothing by itself.
_NO_REASON = {"load"}

Verdict = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True)
class Change:
    """A place where a series has changed its level.

    Attributes:
        first: the first run of the new level.
        difference: of the new level to the one before.
        because: what else differs between that run and the one before it, by name: before, and after.
    """

    first: Point
    difference: Difference
    because: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Judged:
    """A series with what is known of it.

    Attributes:
        series: the figures.
        verdict: on its last run.
        why: the same in words.
        changes: where it has changed.
        last: the last run against those before it, since the last change among them.
    """

    series: Series
    verdict: Verdict
    why: str
    changes: tuple[Change, ...] = ()
    last: Difference | None = field(default=None)


def judge(found: Sequence[Series], most: float | None = None) -> list[Judged]:
    """Judge series that are looked at together.

    Args:
        found: the series.
        most: how much slower, as a share, is accepted; the verdict is then inconclusive where the interval holds it.
            Without, any slowing down that is surely there is a failure.
    """
    timed = sum(one.metric != "error" for one in found)
    level = LEVEL / _TESTS / max(1, timed)
    return [_error(one) if one.metric == "error" else _timed(one, level, most) for one in found]


def _error(one: Series) -> Judged:
    figure = one.points[-1].figure
    came = "none" if figure.estimate is None else f"{figure.estimate:.3g} {figure.unit}"
    limit = "" if figure.limit is None else f", limit {figure.limit:.3g} {figure.unit}"
    if figure.ok:
        return Judged(one, "passed", f"parity holds in the last run: {came}{limit}")
    first = next(point for index, point in enumerate(one.points) if not any(p.figure.ok for p in one.points[index:]))
    return Judged(one, "failed", f"parity fails in the last run: {came}{limit}; since {name(first)}")


def _timed(one: Series, level: float, most: float | None) -> Judged:
    pairs = [(point, made) for point in one.points if (made := sample(point.figure)) is not None]
    points, samples = [point for point, _ in pairs], [made for _, made in pairs]
    begins = change.starts(samples, level)
    changes = _changes(points, samples, begins, level)
    if is_void(one.points[-1].figure) or not points or points[-1] is not one.points[-1]:
        return Judged(one, "inconclusive", "the last run's control is not 1, so it says nothing", changes)
    if len(samples) < change.LEAST:
        why = f"{len(samples)} of at least {change.LEAST} runs, so nobody knows how much they differ by themselves"
        return Judged(one, "inconclusive", why, changes)
    # What the last run is held against does not depend on it.
    earlier = change.stretches(samples[:-1], change.starts(samples[:-1], level))
    spread = change.spread(earlier)
    if spread[1] < 1:
        return Judged(one, "inconclusive", "each of the earlier runs has a level of its own", changes)
    last = change.compare(earlier[-1], samples[-1:], spread, level)
    since = changes[-1] if changes else None
    return Judged(one, *_verdict(last, len(earlier[-1]), since, most), changes, last)


def _changes(
    points: Sequence[Point], samples: Sequence[Sample], begins: Sequence[int], level: float
) -> tuple[Change, ...]:
    parts = change.stretches(samples, begins)
    each = level / max(1, len(samples) - 1)
    return tuple(
        Change(
            points[begin],
            change.compare(before, after, change.spread((before, after)), each)
            if len(before) + len(after) >= change.LEAST
            else change.compare(before, after, change.spread(parts), each),
            _because(points[begin - 1], points[begin]),
        )
        for begin, before, after in zip(begins[1:], parts, parts[1:], strict=False)
    )


def _verdict(last: Difference, count: int, since: Change | None, most: float | None) -> tuple[Verdict, str]:
    accepted = 1 + (most or 0.0)
    figure = f"{last.ratio:.3f} [{last.low:.3f}, {last.high:.3f}]"
    against = f"{figure} times the {count} run{'s' if count > 1 else ''} before"
    seen = f"a change of {100 * last.visible:.2g} % would have been seen"
    if since and since.difference.low > accepted:
        one = since.difference
        return (
            "failed",
            f"slower since {name(since.first)}: {one.ratio:.3f} [{one.low:.3f}, {one.high:.3f}] times before",
        )
    if last.low > accepted:
        return "failed", f"the last run is slower: {against}"
    if last.visible > _BLIND and last.high >= 1:
        return "inconclusive", f"the last run takes {against}; not even a doubling would have been seen"
    if most is not None and last.high > accepted:
        return "inconclusive", f"the last run takes {against}, and {100 * most:.3g} % more is accepted; {seen}"
    if last.high < 1:
        return "passed", f"the last run is faster: {against}"
    return "passed", f"the last run takes {against}; {seen}"


def name(point: Point) -> str:
    """Name a run as people and ``--since`` do: the beginning of its hash, and when it was."""
    return f"{point.file.rpartition('/')[2][:12]} ({point.recorded[:16].replace('T', ' ')})"


def _because(before: Point, after: Point) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys((*before.facts, *after.facts))
    pairs = {one: (before.facts.get(one), after.facts.get(one)) for one in names if one not in _NO_REASON}
    return {one: pair for one, pair in pairs.items() if pair[0] != pair[1]}
