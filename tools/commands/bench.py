"""``bench``: latency of a bundle on this machine, against budgets, a baseline, or another bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.deploy_tests import open_bundle
from attn_export.deploy_tests.backends import DEFAULT
from attn_export.deploy_tests.latency import budget
from attn_export.deploy_tests.latency.comparison import LatencyComparison, Rules, compare_latency
from attn_export.deploy_tests.latency.measure import Protocol
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.measurement import Measurement, MeasureOptions, measure_bundle, thread_counts
from attn_export.errors import InconclusiveError, UsageError
from attn_export.tools import console
from attn_export.tools.progress import TerminalProgress


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What was typed."""

    paths: tuple[Path, ...]
    backend: str | None = None
    artifact: str | None = None
    protocol: Protocol = field(default_factory=Protocol)
    threads: int = 1
    thorough: bool = False
    budgets: tuple[str, ...] = ()
    faster_than: Path | None = None
    baseline: Path | None = None
    max_regression: str = "3%"
    mlperf: bool = False
    soak: float = 0.0
    thread_sweep: bool = False
    batch_sweep: str | None = None
    profile: bool = False
    shapes: tuple[str, ...] = ()

    @property
    def runtime(self) -> str:
        """Where to measure."""
        return self.backend or DEFAULT

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


def bench(asked: BenchOptions, *, as_json: bool, verbosity: int) -> None:
    """Measure one bundle, or the ratio of two; then hold it against what was asked."""
    if len(asked.paths) > 2:
        raise UsageError(f"expected one bundle, or two to compare; got {len(asked.paths)}")
    progress = TerminalProgress(verbosity)
    read = [_read(path, asked.artifact) for path in asked.paths]
    faster_than = bundle.read(asked.faster_than) if asked.faster_than else None
    baseline = _baseline(asked.baseline) if asked.baseline else None
    most = budget.percent(asked.max_regression)
    results: list[tuple[bundle.Bundle, Measurement]] = []
    for whole in read:
        with progress.stage(f"latency of {whole.path.name}"):
            results.append((whole, measure_bundle(whole, asked.runtime, asked.measure(), progress=progress.detail)))
        if not as_json:
            console.say(*_lines(whole, results[-1][1]))
    for warning in results[0][1].warnings:
        progress.warn(str(warning))
    compared = _compare(read[0], read[1], asked, progress) if len(read) == 2 else None
    findings = [finding for _, measured in results for finding in measured.findings]
    if faster_than:
        against = _compare(read[0], faster_than, asked, progress)
        findings.append(budget.faster(against, str(asked.faster_than)))
    if baseline is not None:
        findings.append(_regression(results[0], baseline, most, asked, progress))
    if as_json:
        runs = [{"bundle": str(whole.path), **measured.plain} for whole, measured in results]
        comparison = compared.to_dict(*map(str, asked.paths)) if compared else None
        held = [finding.to_dict() for finding in findings]
        machine = environment.describe(asked.runtime)
        console.emit({"environment": machine, "runs": runs, "comparison": comparison, "budgets": held})
    else:
        _say(asked, compared, findings)
    if compared and compared.void:
        raise InconclusiveError(
            f"no latency ratio: expected an A/A run of 1.0, got {compared.control}; use a quieter machine"
        )
    budget.gate(findings)


def _say(asked: BenchOptions, compared: LatencyComparison | None, findings: list[budget.BudgetResult]) -> None:
    """Print the comparison and the budgets for people."""
    if compared:
        console.say(_comparison(asked.paths, compared))
    console.say(*(finding.summary() for finding in findings))


def _regression(
    measured: tuple[bundle.Bundle, Measurement],
    baseline: bundle.Bundle | dict[str, Any],
    most: float,
    asked: BenchOptions,
    progress: TerminalProgress,
) -> budget.BudgetResult:
    """Hold what was measured against a bundle, by a comparison, or against a report, by its figures."""
    whole, now = measured
    if isinstance(baseline, bundle.Bundle):
        return budget.regression(_compare(whole, baseline, asked, progress), most)
    return budget.regression_of_reports(now.plain, baseline, most)


def _read(path: Path, artifact: str | None) -> bundle.Bundle:
    """Read a bundle, and of several artifacts leave the one that is named."""
    whole = bundle.read(path)
    return whole if artifact is None else whole.only(whole.artifact(artifact))


def _baseline(path: Path) -> bundle.Bundle | dict[str, Any]:
    """Read the bundle, or the first run of the report, to hold this one against."""
    if path.is_dir():
        return bundle.read(path)
    runs = bundle.report_file(path, UsageError)["runs"]
    if not runs:
        raise UsageError(
            f"--baseline {path}: expected a report with a run, got none; measure with `attn-export bench` first"
        )
    return dict(runs[0])


def _compare(
    one: bundle.Bundle, other: bundle.Bundle, asked: BenchOptions, progress: TerminalProgress
) -> LatencyComparison:
    takes = {port.name: (port.dtype, port.shape) for port in other.inputs}
    fits = takes.keys() == {port.name for port in one.inputs} and all(
        takes[port.name][0] == port.dtype and _alike(port.shape, takes[port.name][1]) for port in one.inputs
    )
    if not fits:
        raise UsageError(f"{one.path} and {other.path} take different inputs, so their times cannot be compared")
    with progress.stage("one against the other"):
        compared = compare_latency(
            open_bundle.chosen(one, asked.runtime).path,
            open_bundle.chosen(other, asked.runtime).path,
            one.path / bundle.CASES,
            backend=asked.runtime,
            rules=Rules(processes=8 if asked.thorough else 5, threads=asked.threads),
            progress=progress.detail,
        )
    for whole in (one, other):
        bundle.unchanged(whole)  # each process of the comparison has opened the models by itself
    return compared


def _alike(shape: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    """Whether one input may fit both: sizes that are fixed on both sides are the same."""
    pairs = list(zip(shape, other, strict=False))
    return len(shape) == len(other) and all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in pairs)


def _lines(whole: bundle.Bundle, measured: Measurement) -> list[str]:
    plain = measured.plain
    lines = [f"{whole.path}: {measured.latency.summary()}"]
    if weighed := plain.get("footprint"):
        peak = weighed["peak_bytes"]
        memory = f", peak memory {peak / 1e6:.0f} MB" if peak else ""
        lines.append(f"  cold start {weighed['cold_start_s']:.2f} s{memory}, file {weighed['file_bytes'] / 1e6:.1f} MB")
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


def _comparison(paths: tuple[Path, ...], compared: LatencyComparison) -> str:
    return (
        f"{paths[0]} / {paths[1]}: {compared.ratio}, {compared.verdict}; control {compared.control},"
        f" {len(compared.pairs)} process pairs, {compared.clock}"
    )


def _sizes(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    parts: list[Any] = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--batch-sweep: expected sizes such as 1,2,4,8; got {text!r}")
    return tuple(int(part) for part in parts)
