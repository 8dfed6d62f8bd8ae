"""``bench``: latency of a bundle on this machine, against budgets, a baseline, or another bundle."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.deploy_tests import backends, open_bundle
from attn_export.deploy_tests.latency import budget
from attn_export.deploy_tests.latency.comparison import LatencyComparison, Rules, compare_latency
from attn_export.deploy_tests.latency.energy_use import EnergyUse
from attn_export.deploy_tests.latency.measure import Protocol
from attn_export.deploy_tests.latency.repeated import repeat_latency
from attn_export.deploy_tests.latency.statistics import Interval
from attn_export.deploy_tests.latency.timed_model import common_case, runtime_for, timed_model
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.measurement import Measurement, MeasureOptions, measure_bundle, thread_counts
from attn_export.deploy_tests.store.record import Subject
from attn_export.deploy_tests.tuning import Setting
from attn_export.errors import BackendMissingError, UsageError
from attn_export.tools import console
from attn_export.tools.commands import stored
from attn_export.tools.commands.bench_all import bench_all
from attn_export.tools.commands.bench_tune import bench_tune, would_show
from attn_export.tools.progress import TerminalProgress

#: Seconds that ``--tune`` may take unless told otherwise.
TUNE_TIME = 60.0


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What was typed."""

    paths: tuple[Path, ...]
    all: bool = False
    backend: str | None = None
    artifact: str | None = None
    protocol: Protocol = field(default_factory=Protocol)
    threads: int = 1
    thorough: bool = False
    processes: int | None = None
    budgets: tuple[str, ...] = ()
    faster_than: Path | None = None
    baseline: Path | None = None
    max_regression: str = "3%"
    mlperf: bool = False
    soak: float = 0.0
    thread_sweep: bool = False
    batch_sweep: str | None = None
    profile: bool = False
    tune: bool = False
    tune_time: float | None = None
    shapes: tuple[str, ...] = ()
    store: Path | None = None

    @property
    def rules(self) -> Rules:
        """Say how two models are compared."""
        return Rules(processes=self.processes or (8 if self.thorough else 5), threads=self.threads)

    def measure(self) -> MeasureOptions:
        """Say it as the measuring side takes it."""
        return MeasureOptions(
            threads=self.threads,
            protocol=self.protocol,
            budgets=self.budgets,
            mlperf=self.mlperf,
            sustain=self.soak,
            thread_counts=thread_counts() if self.thread_sweep else (),
            batch_sizes=_sizes(self.batch_sweep),
            ranges=self.shapes,
            profile=self.profile,
        )


@dataclass(frozen=True)
class Side:
    """One model that is measured: what was typed, its bundle as if it held nothing else, and where it runs."""

    typed: str
    whole: bundle.Bundle
    backend: str

    @property
    def artifact(self) -> bundle.Artifact:
        """What is run."""
        return open_bundle.chosen(self.whole, self.backend)

    def on(self, case: int) -> bundle.Bundle:
        """Give the bundle with that case first, which is the one that is measured."""
        cases = self.whole.cases
        return replace(self.whole, cases=(cases[case], *cases[:case], *cases[case + 1 :]))


def bench(asked: BenchOptions, *, as_json: bool, verbosity: int) -> None:
    """Measure one bundle, or the ratio of two; then hold it against what was asked."""
    if asked.all:
        _rank(asked, as_json=as_json, verbosity=verbosity)
        return
    if asked.tune:
        _tune(asked, as_json=as_json, verbosity=verbosity)
        return
    if asked.tune_time is not None:
        raise UsageError("--tune-time is how long --tune may take: add --tune")
    if len(asked.paths) > 2:
        raise UsageError(f"expected one bundle, or two to compare; got {len(asked.paths)}")
    progress = TerminalProgress(verbosity)
    store = stored.prepared(asked.store)
    sides = [_side(path, asked) for path in asked.paths]
    faster_than = _side(asked.faster_than, asked) if asked.faster_than else None
    baseline = _baseline(asked.baseline, asked) if asked.baseline else None
    most = budget.percent(asked.max_regression)
    case = _common_case(sides[0], sides[1]) if len(sides) == 2 else 0
    results: list[tuple[Side, Measurement]] = []
    for side in sides:
        with progress.stage(f"latency of {side.typed}"):
            whole = side.on(case) if side.whole.path == sides[0].whole.path else side.whole
            measured = measure_bundle(whole, side.backend, asked.measure(), progress=progress.detail)
            results.append((side, measured))
        if store and len(sides) == 1:
            measured.plain["repeated"] = _repeated(side, asked, progress)
        if not as_json:
            console.say(*_lines(side.typed, measured))
    for warning in results[0][1].warnings:
        progress.warn(str(warning))
    compared = _compare(sides[0], sides[1], asked, progress) if len(sides) == 2 else None
    findings = [finding for _, measured in results for finding in measured.findings]
    others: list[str] = []
    if faster_than:
        against = _compare(sides[0], faster_than, asked, progress)
        findings.append(budget.faster(against, faster_than.typed))
        others.append(_comparison([sides[0], faster_than], against))
    if isinstance(baseline, Side):
        against = _compare(sides[0], baseline, asked, progress)
        findings.append(budget.regression(against, most))
        others.append(_comparison([sides[0], baseline], against))
    elif baseline is not None:
        findings.append(budget.regression_of_reports(results[0][1].plain, baseline, most))
    runs = [{"bundle": str(side.whole.path), **measured.plain} for side, measured in results]
    comparison = _plain(sides, compared, case) if compared else None
    held = [finding.to_dict() for finding in findings]
    machine = environment.describe(*dict.fromkeys(side.backend for side in sides))
    content: dict[str, Any] = {"environment": machine, "runs": runs, "comparison": comparison, "budgets": held}
    stored.keep(store, "bench", [_subject(side, run, case) for side, run in zip(sides, runs, strict=True)], content)
    console.result(content, as_json=as_json)
    if not as_json:
        console.say(*others)
        _say(sides, compared, case, findings)
    if compared:
        compared.refuse_void()
    budget.gate(findings)


def _repeated(side: Side, asked: BenchOptions, progress: TerminalProgress) -> dict[str, Any]:
    """Time a model in fresh processes too: what can be compared with later runs."""
    with progress.stage("the same in fresh processes, for the store"):
        found = repeat_latency(
            timed_model(side.whole, side.artifact, side.backend),
            side.whole.path / bundle.CASES,
            case=_first_case(side),
            rules=asked.rules,
            progress=progress.detail,
        )
    bundle.unchanged(side.whole)
    return found.to_dict()


def _subject(side: Side, run: dict[str, Any], case: int) -> Subject:
    clock = (run.get("repeated") or {}).get("clock", "")
    at = case or _first_case(side)
    return stored.subject(side.whole, side.artifact, run, threads=run["latency"]["threads"], case=at, clock=clock)


def _first_case(side: Side) -> int:
    """Find the case that is measured where nothing else is asked: the first that is taken in one run."""
    return open_bundle.narrowed(side.whole, side.artifact).whole(side.whole.cases)


def _rank(asked: BenchOptions, *, as_json: bool, verbosity: int) -> None:
    """Rank everything of one bundle; how a single one is measured has no meaning there.

    Raises:
        UsageError: more was asked for.
    """
    usual = BenchOptions(
        paths=asked.paths,
        all=True,
        protocol=asked.protocol,
        threads=asked.threads,
        thorough=asked.thorough,
        processes=asked.processes,
        store=asked.store,
    )
    if len(asked.paths) != 1 or asked != usual:
        raise UsageError(
            "--all: expected one bundle, with --threads, --thorough, --processes or --store; got more; leave the rest"
            " out"
        )
    bench_all(asked.paths[0], asked.rules, asked.store, as_json=as_json, verbosity=verbosity)


def _tune(asked: BenchOptions, *, as_json: bool, verbosity: int) -> None:
    """Tune one model of one bundle.

    Raises:
        UsageError: more was asked for.
    """
    usual = BenchOptions(
        paths=asked.paths,
        tune=True,
        tune_time=asked.tune_time,
        protocol=asked.protocol,
        threads=asked.threads,
        backend=asked.backend,
        artifact=asked.artifact,
        store=asked.store,  # of where it would be kept: settings are an answer, and no figure to follow over time
    )
    if len(asked.paths) != 1 or asked != usual:
        raise UsageError("--tune: expected one bundle, with --threads, --backend or --artifact; got more; leave it out")
    one = _side(asked.paths[0], asked)
    way = Setting(one.artifact.name, one.backend, asked.threads)
    seconds = TUNE_TIME if asked.tune_time is None else asked.tune_time
    bench_tune(one.typed, one.whole.path, way, seconds, as_json=as_json, verbosity=verbosity)


def _say(sides: list[Side], compared: LatencyComparison | None, case: int, findings: list[budget.BudgetResult]) -> None:
    """Print the comparison and the budgets for people."""
    if compared:
        console.say(_comparison(sides, compared))
        if case:
            name = sides[0].whole.cases[case].name
            console.say(f"measured on case '{name}', the first that both take in one run")
    console.say(*(finding.summary() for finding in findings))


def parse_side(typed: str) -> tuple[str, str | None, str | None]:
    """Split what was typed into a bundle's folder, an artifact and a backend; what is there as typed is the folder.

    >>> parse_side("net#ort@there"), parse_side("net@there"), parse_side("a@b/net#ort")
    (('net', 'ort', 'there'), ('net', None, 'there'), ('a@b/net', 'ort', None))
    """
    if os.path.lexists(typed):
        return typed, None, None
    folder, slash, last = typed.rpartition("/")
    rest, _, backend = last.partition("@")
    name, _, artifact = rest.partition("#")
    return f"{folder}{slash}{name}", artifact or None, backend or None


def _side(path: Path, asked: BenchOptions) -> Side:
    """Read a bundle, and of several artifacts leave the one that is named."""
    folder, artifact, backend = parse_side(str(path))
    whole, artifact = bundle.read(Path(folder)), artifact or asked.artifact
    backend = backend or asked.backend or runtime_for(whole, artifact)
    if why := backends.missing(backend):
        raise BackendMissingError(f"{backend} is not available here: {why}")
    if artifact is not None:
        whole = whole.only(whole.artifact(artifact))
    elif open_bundle.accepted(whole, backend):
        whole = whole.only(open_bundle.chosen(whole, backend))
    return Side(str(path), whole, backend)


def _baseline(path: Path, asked: BenchOptions) -> Side | dict[str, Any]:
    """Read the bundle, or the first run of the report, to hold this one against."""
    if not path.is_file():
        return _side(path, asked)
    runs = bundle.report_file(path, UsageError)["runs"]
    if not runs:
        raise UsageError(
            f"--baseline {path}: expected a report with a run, got none; measure with `attn-export bench` first"
        )
    return dict(runs[0])


def _common_case(one: Side, other: Side) -> int:
    return common_case(one.whole.cases, [open_bundle.narrowed(side.whole, side.artifact) for side in (one, other)])


def _compare(one: Side, other: Side, asked: BenchOptions, progress: TerminalProgress) -> LatencyComparison:
    takes = {port.name: (port.dtype, port.shape) for port in other.whole.inputs}
    fits = takes.keys() == {port.name for port in one.whole.inputs} and all(
        takes[port.name][0] == port.dtype and _alike(port.shape, takes[port.name][1]) for port in one.whole.inputs
    )
    if not fits:
        raise UsageError(f"{one.typed} and {other.typed} take different inputs, so their times cannot be compared")
    with progress.stage("one against the other"):
        compared = compare_latency(
            timed_model(one.whole, one.artifact, one.backend),
            timed_model(other.whole, other.artifact, other.backend),
            one.whole.path / bundle.CASES,
            case=_common_case(one, other),
            rules=asked.rules,
            progress=progress.detail,
        )
    for side in (one, other):
        bundle.unchanged(side.whole)  # each process of the comparison has opened the models by itself
    return compared


def _alike(shape: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    """Whether one input may fit both: sizes that are fixed on both sides are the same."""
    pairs = list(zip(shape, other, strict=False))
    return len(shape) == len(other) and all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in pairs)


def _lines(typed: str, measured: Measurement) -> list[str]:
    plain = measured.plain
    lines = [f"{typed}: {measured.latency.summary()}"]
    if repeated := plain.get("repeated"):
        time, control = (Interval(**repeated[name]) for name in ("time_ms", "control"))
        many = len(repeated["processes_ms"])
        lines.append(f"  {time} ms over {many} fresh processes, A/A control {control} ({repeated['clock']})")
    if weighed := plain.get("footprint"):
        peak = weighed["peak_bytes"]
        memory = f", peak memory {peak / 1e6:.0f} MB" if peak else ""
        lines.append(f"  cold start {weighed['cold_start_s']:.2f} s{memory}, file {weighed['file_bytes'] / 1e6:.1f} MB")
    if used := plain.get("energy"):
        lines.append(f"  {EnergyUse(**{**used, 'joules': Interval(**used['joules'])}).summary()}")
    if engine := plain.get("engine"):
        words = {"gpu": "GPU", "host": "host end to end", "graph": "CUDA graph"}
        for kind, found in engine["percentiles_ms"].items():
            figures = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
            lines.append(f"  {words[kind]}: {figures + ' ms' if found else engine['graph_missing']}")
    if figure := plain.get("mlperf"):
        lines.append(
            f"  MLPerf single stream p90 {figure['estimate_ms']:.3g} ms, {figure['queries']} queries; no submission"
        )
    for kind, points in (plain.get("sweeps") or {}).items():
        for point in points:
            wall = point["wall_ms"]
            figures = f"p50 {wall['p50']:.3g}, p90 {wall['p90']:.3g} ms, {point['per_item_ms']:.3g} ms an item"
            lines.append(f"  {'threads' if kind == 'threads' else 'batch of'} {point['setting']}: {figures}")
    if drift := plain.get("drift"):
        steady = "steady" if drift["steady"] else "it drifts"
        lines.append(
            f"  over {drift['duration_s']:.0f} s: {steady}, {drift['change']:+.1%} from the first quarter to the last"
        )
    for row in ((plain.get("profile") or {}).get("rows") or [])[:10]:
        peak = "    " if row["roofline_share"] is None else f"{row['roofline_share']:4.0%}"
        lines.append(
            f"  {row['share']:6.1%} of the time, {peak} of peak  {row['op']:<20} {', '.join(row['nodes'])[:80]}"
        )
    return lines


def _plain(sides: list[Side], compared: LatencyComparison, case: int) -> dict[str, Any]:
    """Give the comparison as plain data, with what was run where, and on which case."""
    names = [side.typed for side in sides]
    run = [{"artifact": side.artifact.name, "backend": side.backend} for side in sides]
    return {**compared.to_dict(*names), "sides": run, "case": sides[0].whole.cases[case].name}


def _comparison(sides: list[Side], compared: LatencyComparison) -> str:
    return f"{sides[0].typed} / {sides[1].typed}: {compared.outcome()}; {would_show(compared)}"


def _sizes(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    parts: list[Any] = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--batch-sweep: expected sizes such as 1,2,4,8; got {text!r}")
    return tuple(int(part) for part in parts)
