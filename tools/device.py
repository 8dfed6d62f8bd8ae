"""``verify`` and ``bench``: the device side of the command line, without torch or onnx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from attn_export import bundle
from attn_export.deploy_tests import environment
from attn_export.deploy_tests import verify as proofs
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.contest import Contest, Rules, compete
from attn_export.deploy_tests.latency import Protocol
from attn_export.errors import BackendMissingError, GateError, InconclusiveError, UsageError
from attn_export.tools.progress import Progress


def verify(
    path: Path,
    backends: tuple[str, ...],
    required: tuple[str, ...],
    atol: float | None,
    rtol: float | None,
    threads: int,
    as_json: bool,
) -> None:
    """Prove a bundle on each backend; a missing one is said, and never counts as passed."""
    whole = bundle.read(path)
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for name in dict.fromkeys((*required, *backends)) or ("onnxruntime",):
        if why := BACKENDS[name].missing():
            missing.append(name)
            rows.append({"backend": name, "missing": why})
            _say(as_json, f"{name}: not run: {why}")
            continue
        parity = proofs.verify(whole, name, threads=threads, atol=atol, rtol=rtol)
        rows.append({"backend": name, "parity": parity.as_json(), "sentence": parity.sentence()})
        _say(as_json, f"{name}: {parity.sentence()}")
    if as_json:
        typer.echo(json.dumps({"bundle": str(path), "environment": environment.describe(), "runs": rows}))
    if failed := [row["backend"] for row in rows if "parity" in row and not row["parity"]["ok"]]:
        raise GateError(f"{path} is not proven on {', '.join(failed)}")
    if lacking := [name for name in missing if name in required]:
        raise BackendMissingError(f"required, but not available here: {', '.join(lacking)}; nothing is proven on it")
    if len(missing) == len(rows):
        raise BackendMissingError(f"{path} was proven on nothing: {', '.join(missing)} not available here")


def bench(
    paths: tuple[Path, ...],
    backend: str,
    rule: tuple[float, int, float],
    threads: int,
    thorough: bool,
    as_json: bool,
    verbosity: int,
) -> None:
    """Measure one bundle, or the ratio of two."""
    if len(paths) > 2:
        raise UsageError(f"bench takes one bundle, or two to compare; came {len(paths)}")
    progress = Progress(verbosity)
    read = [bundle.read(path) for path in paths]
    warmup, iterations, duration = rule
    results: list[dict[str, Any]] = []
    for whole in read:
        with progress.stage(f"latency of {whole.path.name}"):
            protocol = Protocol(warmup, duration=duration, iterations=iterations)
            timed = proofs.latency(whole, backend, threads=threads, protocol=protocol)
        results.append({"bundle": str(whole.path), "backend": backend, "latency": timed.as_json()})
        middle, tail = timed.median(), timed.percentiles()
        _say(
            as_json,
            f"{whole.path}: p50 {middle.estimate:.3g} ms [{middle.low:.3g}, {middle.high:.3g}], p90 {tail['p90']:.3g},"
            f" p95 {tail['p95']:.3g}, p99 {tail['p99']:.3g} ms; {len(timed.wall)} runs, {threads} thread(s),"
            f" cold start {timed.cold_start:.2f} s",
        )
    contest = _contest(read, backend, threads, thorough, progress) if len(read) == 2 else None
    if as_json:
        comparison = contest.as_json() if contest else None
        typer.echo(json.dumps({"environment": environment.describe(), "runs": results, "first_to_second": comparison}))
    if contest:
        _say(
            as_json,
            f"{paths[0]} / {paths[1]}: {contest.ratio}, {contest.verdict}; control {contest.control},"
            f" {len(contest.pairs)} process pairs, {contest.clock}",
        )
        if contest.void:
            raise InconclusiveError(f"the control left 1 ({contest.control}): this machine cannot compare now")


def _contest(read: list[bundle.Bundle], backend: str, threads: int, thorough: bool, progress: Progress) -> Contest:
    one, other = read
    if one.inputs != other.inputs:
        raise UsageError(f"{one.path} and {other.path} take different inputs, so their times cannot be compared")
    with progress.stage("one against the other"):
        return compete(
            one.model,
            other.model,
            one.path / bundle.CASES,
            backend=backend,
            rules=Rules(processes=8 if thorough else 5, threads=threads),
            progress=progress.detail,
        )


def _say(as_json: bool, text: str) -> None:
    if not as_json:
        typer.echo(text)
