"""``sweep`` on the command line: a line for each job as it ends, a table of what failed, and the count."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from attn_export.errors import (
    AttnExportError,
    BackendMissingError,
    GateError,
    InconclusiveError,
    UnknownNameError,
    UsageError,
)
from attn_export.export import sources
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.options import Mutants
from attn_export.pipeline.sweep import matrix
from attn_export.pipeline.sweep.catalogue import jobs
from attn_export.pipeline.sweep.engine import Engine
from attn_export.pipeline.sweep.farm import Farm
from attn_export.pipeline.sweep.job import Plan, SweepJob
from attn_export.pipeline.sweep.rows import RESULTS, SweepRow, exit_code
from attn_export.pipeline.sweep.sweeping import Settings
from attn_export.pipeline.sweep.sweeping import sweep as run
from attn_export.tools import console
from attn_export.tools.commands import stored

#: What a sweep ends with, by its exit code.
_ENDS: dict[int, type[AttnExportError]] = {
    1: GateError,
    3: AttnExportError,
    4: BackendMissingError,
    5: InconclusiveError,
}


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What was typed."""

    families: tuple[str, ...]
    presets: tuple[str, ...]
    fuse: bool | None
    variants: bool
    matrix: Path | None
    scheduler: str | None
    tls: tuple[Path | None, Path | None, Path | None]
    output: Path
    workers: int
    job_timeout: float
    bench: bool
    cache: bool
    mutants: Mutants
    store: Path | None = None


def _keep(store: Path | None, row: SweepRow, plan: Plan, folder: Path) -> None:
    """Put what a job gave into the store; what was not run again is there already, from when it was."""
    if store is None or row.cached:
        return
    job = plan.named[row.label]
    if isinstance(job, SweepJob):
        if row.ok:
            stored.keep_bundle(store, "sweep", folder / row.label, more={"row": asdict(row)}, where=row.where)
        else:
            stored.keep(store, "sweep", (), {"runs": [], "row": asdict(row)})
        return
    where = job.device if job.address else row.where
    made = plan.given.get(job.bundle, folder / job.bundle)
    for command in ("verify", "bench"):
        if (file := folder / row.label / f"{command}.json").is_file():
            stored.keep_report(store, "sweep", made, file, job.bench.threads, where=where)


def sweep(asked: SweepOptions, *, as_json: bool, quiet: bool) -> None:
    """Run it; exit 1 when any job failed, 5 when some gave no verdict and none failed."""
    store = stored.prepared(asked.store)
    os.environ.pop(stored.VARIABLE, None)  # what a job starts must not keep by itself what is kept here
    plan = _plan(asked)
    if plan.builds:
        sources.refuse_without_torch()  # once, and not by every job

    def said(row: SweepRow, done: int, of: int) -> None:
        _keep(store, row, plan, asked.output)
        if not quiet:
            unchanged = " (unchanged)" if row.cached else ""
            console.say(
                f"[{done}/{of}] {row.label}: {row.status}{unchanged}, {row.message}, {row.seconds:.1f} s", err=True
            )

    settings = Settings(
        folder=asked.output,
        workers=asked.workers,
        job_timeout=asked.job_timeout,
        bench=asked.bench,
        cache=asked.cache,
        mutants=asked.mutants,
    )
    engine = _cluster(asked, quiet=quiet)
    began = time.perf_counter()
    rows = run(plan, settings, said, engine)
    failed = [row for row in rows if not row.ok]
    if as_json:
        console.emit({"rows": [asdict(row) for row in rows]})
    else:
        for row in failed:
            console.say(f"{row.label}: {row.status}: {row.message}  ({asked.output / row.label}.log)")
        console.say(_count(plan, rows, time.perf_counter() - began, asked))
    if failed:
        raise _ENDS[exit_code(rows)](f"{len(failed)} of {len(rows)} runs failed")


def _cluster(asked: SweepOptions, *, quiet: bool) -> Engine | None:
    """Connect to the cluster that was named; None where jobs run here.

    Raises:
        UsageError: something was typed that has no meaning there.
        LoadError: it cannot be reached.
    """
    if asked.scheduler is None:
        if any(asked.tls):
            raise UsageError("--tls-ca, --tls-cert and --tls-key are for a cluster; name it with --scheduler")
        return None
    if asked.bench:
        raise UsageError("--bench measures inside of the main job; on a cluster, give targets and devices by --matrix")
    from attn_export.pipeline.sweep.dask_cluster import DaskCluster, Tls

    ca, cert, key = asked.tls
    cluster = DaskCluster(asked.scheduler, Tls(ca=ca, cert=cert, key=key))
    if not quiet:
        for text in cluster.warnings():
            console.say(f"warning: {text}", err=True)
    return Farm(cluster)


def _plan(asked: SweepOptions) -> Plan:
    """Say which jobs are meant.

    Raises:
        UsageError: none are, or both a matrix and a part of the catalogue.
    """
    if asked.matrix is not None:
        if asked.families or asked.presets or asked.fuse is not None:
            raise UsageError("--matrix says which jobs there are; leave --family, --preset and --fuse out")
        return matrix.read(asked.matrix)
    known = sorted({entry.family for entry in MECHANISMS.entries.values()})
    for family in asked.families:
        if family not in known:
            raise UnknownNameError("family", family, known)
    presets = asked.presets or ("test",)
    wanted = jobs(asked.families, presets, fuse=asked.fuse, variants=asked.variants)
    if not wanted:
        raise UsageError(f"no entry has a preset called {' or '.join(presets)}; `attn-export show NAME` lists them")
    return Plan(tuple(wanted))


def _count(plan: Plan, rows: list[SweepRow], seconds: float, asked: SweepOptions) -> str:
    passed, reused = sum(row.ok for row in rows), sum(row.cached for row in rows)
    workers = f"on {asked.scheduler}" if asked.scheduler else f"{asked.workers} workers"
    entries = len({job.name for job in plan.builds})
    return (
        f"{passed} of {len(rows)} runs of {entries} entries passed, none skipped,"
        f" {reused} unchanged; {seconds / 60:.1f} minutes, {workers}; {asked.output / RESULTS}"
    )
