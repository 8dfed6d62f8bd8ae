"""``history``: the figures of a subject over time, where they changed, and whether the last run is worse."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.history import judge as judging
from attn_export.deploy_tests.history.judge import LEVEL, Change, Judged
from attn_export.deploy_tests.history.series import Series, group, is_void
from attn_export.deploy_tests.store import index
from attn_export.deploy_tests.store.index import Index, Point
from attn_export.errors import GateError, InconclusiveError, UnknownNameError, UsageError
from attn_export.tools import console
from attn_export.tools.commands import stored
from attn_export.types import JsonDict

METRICS = ("time", "ratio", "error")
#: Rows of a series that are printed, the last of it; ``--json`` has all.
_SHOWN = 20
_DATE = re.compile(r"\d{4}-\d\d-\d\d.*")


@dataclass(frozen=True, kw_only=True)
class HistoryOptions:
    """What was typed."""

    name: str | None
    store: Path | None
    machine: str | None = None
    metric: str | None = None
    since: str | None = None
    max_regression: str | None = None
    rebuild: bool = False


def history(asked: HistoryOptions, *, as_json: bool) -> None:
    """Show it, then hold the last run against those before.

    Raises:
        UsageError: no store is named; or what is named is not in it.
        LoadError: the store cannot be read.
        GateError: the last run is surely worse.
        InconclusiveError: nobody can tell.
    """
    root = stored.asked(asked.store)
    if root is None:
        raise UsageError(f"which store? name it with --store DIR or {stored.VARIABLE}")
    if asked.metric is not None and asked.metric not in METRICS:
        raise UnknownNameError("metric", asked.metric, METRICS)
    most = None if asked.max_regression is None else _share(asked.max_regression)
    with index.opened(root, rebuild=asked.rebuild) as found:
        for file, why in found.skipped().items():
            console.warn(f"skipped: {file} {why}")
        if asked.name is None:
            _subjects(root, found, as_json=as_json)
            return
        points = _points(found, asked.name)
    judged = judging.judge(_wanted(points, asked), most)
    if as_json:
        console.emit(
            {"store": str(root), "name": asked.name, "level": LEVEL, "series": [_plain(one) for one in judged]}
        )
    else:
        for one in judged:
            _say(one)
    _gate(asked.name, judged)


def _gate(name: str, judged: Sequence[Judged]) -> None:
    for verdict, error in (("failed", GateError), ("inconclusive", InconclusiveError)):
        if rows := [one for one in judged if one.verdict == verdict]:
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            raise error(f"{name}: {rows[0].why} ({rows[0].series.metric}, {rows[0].series.how}){more}")


def _share(text: str) -> float:
    from attn_export.deploy_tests.latency.budget import percent

    return percent(text)


def _subjects(root: Path, found: Index, *, as_json: bool) -> None:
    known = found.known()
    if as_json:
        rows = [{**asdict(one), "series": len(group(found.points(name=one.name)))} for one in known]
        console.emit({"store": str(root), "subjects": rows, "skipped": found.skipped()})
        return
    rows_ = [(one.name, str(one.runs), one.first[:10], one.last[:10]) for one in known]
    console.show(console.table(f"{root}", ("subject", "runs", "first", "last"), rows_))


def _points(found: Index, typed: str) -> list[Point]:
    """Find what is meant: a bundle's folder or digest, or a subject's name.

    Raises:
        UnknownNameError: the store has no run of it.
        BundleError: the folder is no bundle.
    """
    from attn_export import bundle

    if re.fullmatch(r"(?:sha256:)?[0-9a-f]{64}", typed):
        points = found.points(digest=bundle.parse_digest(typed))
    elif (Path(typed) / bundle.MANIFEST).is_file():
        points = found.points(digest=bundle.digest(Path(typed)))
    else:
        points = found.points(name=typed)
    if not points:
        raise UnknownNameError("run in the store of", typed, [one.name for one in found.known()])
    return points


def _wanted(points: Sequence[Point], asked: HistoryOptions) -> list[Series]:
    """Leave what was asked for.

    Raises:
        UnknownNameError: there is no such machine.
        UsageError: nothing is left, or there is no such run.
    """
    machines = {name for point in points for name in (point.machine.name, point.machine.id)}
    if asked.machine is not None and asked.machine not in machines:
        raise UnknownNameError("machine in these runs", asked.machine, machines)
    chosen = [
        point
        for point in points
        if asked.machine in (None, point.machine.name, point.machine.id)
        and asked.metric in (None, point.figure.metric)
        and point.recorded >= _from(points, asked.since)
    ]
    if not chosen:
        raise UsageError(f"{asked.name}: expected a run of these machines, metrics and times, got none")
    return group(chosen)


def _from(points: Sequence[Point], since: str | None) -> str:
    """Read ``--since``: a day, or the beginning of a run's hash."""
    if since is None or _DATE.fullmatch(since):
        return since or ""
    found = [point.recorded for point in points if point.file.rpartition("/")[2].startswith(since)]
    if not since or not found:
        raise UsageError(
            f"--since: expected a day such as 2026-12-01, or the beginning of a run's hash; got {since[:80]!r}"
        )
    return found[0]


def _say(one: Judged) -> None:
    points, series = one.series.points, one.series
    changed = {change.first.file: change for change in one.changes}
    rows = [_row(point, changed.get(point.file)) for point in points[-_SHOWN:]]
    console.say(series.title(), bold=True)
    headings = ("run", "when", f"{series.metric} [{series.unit}]", "95 %", "A/A control", "note")
    console.show(console.table("", headings, rows))
    if len(points) > _SHOWN:
        console.say(f"and {len(points) - _SHOWN} earlier; --json has all")
    for change in one.changes:
        console.say(f"changed at {judging.name(change.first)}: {_ratio(change)} times before{_because(change.because)}")
    console.say(f"{one.verdict}: {one.why}", "")


def _row(point: Point, change: Change | None) -> tuple[str, ...]:
    figure = point.figure
    value = "none" if figure.estimate is None else f"{figure.estimate:.4g}"
    ends = "" if figure.low is None or figure.high is None else f"{figure.low:.4g} to {figure.high:.4g}"
    control = "" if figure.control_low is None else f"{figure.control_low:.3f} to {figure.control_high:.3f}"
    note = f"changed: {_ratio(change)}" if change else ""
    note = "left out: control" if is_void(figure) else "parity fails" if not figure.ok else note
    return point.file.rpartition("/")[2][:12], point.recorded[:16].replace("T", " "), value, ends, control, note


def _ratio(change: Change) -> str:
    one = change.difference
    return f"{one.ratio:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _because(facts: Mapping[str, tuple[Any, Any]]) -> str:
    if not facts:
        return "; nothing that was recorded changed with it"
    return "; with it changed " + ", ".join(f"{name} {_short(a)} → {_short(b)}" for name, (a, b) in facts.items())


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:14]}…" if text.startswith("sha256:") else text[:60]


def _plain(one: Judged) -> JsonDict:
    series = one.series
    points = [
        {
            "run": point.file,
            "recorded": point.recorded,
            "kind": point.kind,
            **asdict(point.figure),
            "void": is_void(point.figure),
            "digest": point.subject.digest,
            "version": point.subject.version,
            "facts": dict(point.facts),
        }
        for point in series.points
    ]
    changes = [
        {
            "run": change.first.file,
            "recorded": change.first.recorded,
            **asdict(change.difference),
            "because": {name: list(pair) for name, pair in change.because.items()},
        }
        for change in one.changes
    ]
    return {
        "title": series.title(),
        "machine": asdict(series.machine),
        "subject": asdict(series.subject),
        "metric": series.metric,
        "how": series.how,
        "unit": series.unit,
        "verdict": one.verdict,
        "why": one.why,
        "last": asdict(one.last) if one.last else None,
        "changes": changes,
        "points": points,
    }
