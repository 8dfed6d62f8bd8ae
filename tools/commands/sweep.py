"""``sweep`` on the command line: a line for each entry as it ends, a table of what failed, and the count."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from attn_export.errors import GateError, UnknownNameError, UsageError
from attn_export.export import sources
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.options import Mutants
from attn_export.pipeline.sweep.jobs import RESULTS, Settings, SweepRow, jobs
from attn_export.pipeline.sweep.jobs import sweep as run
from attn_export.tools import console


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What was typed."""

    families: tuple[str, ...]
    presets: tuple[str, ...]
    fuse: bool | None
    variants: bool
    output: Path
    workers: int
    job_timeout: float
    bench: bool
    cache: bool
    mutants: Mutants


def sweep(asked: SweepOptions, *, as_json: bool, quiet: bool) -> None:
    """Run it; exit 1 when any entry failed."""
    families, presets, folder = asked.families, asked.presets, asked.output
    known = sorted({entry.family for entry in MECHANISMS.entries.values()})
    for family in families:
        if family not in known:
            raise UnknownNameError("family", family, known)
    wanted = jobs(families, presets, fuse=asked.fuse, variants=asked.variants)
    if not wanted:
        raise UsageError(f"no entry has a preset called {' or '.join(presets)}; `attn-export show NAME` lists them")

    sources.refuse_without_torch()  # once, and not by every job

    def said(row: SweepRow, done: int, of: int) -> None:
        if not quiet:
            unchanged = " (unchanged)" if row.cached else ""
            console.say(
                f"[{done}/{of}] {row.label}: {row.status}{unchanged}, {row.message}, {row.seconds:.1f} s", err=True
            )

    settings = Settings(
        folder=folder,
        workers=asked.workers,
        job_timeout=asked.job_timeout,
        bench=asked.bench,
        cache=asked.cache,
        mutants=asked.mutants,
    )
    began = time.perf_counter()
    rows = run(wanted, settings, said)
    failed = [row for row in rows if not row.ok]
    reused = sum(row.cached for row in rows)
    if as_json:
        console.emit({"rows": [asdict(row) for row in rows]})
    else:
        for row in failed:
            console.say(f"{row.label}: {row.status}: {row.message}  ({folder / row.label}.log)")
        entries = len({job.name for job in wanted})
        minutes = (time.perf_counter() - began) / 60
        console.say(
            f"{len(rows) - len(failed)} of {len(rows)} runs of {entries} entries passed, none skipped,"
            f" {reused} unchanged; {minutes:.1f} minutes, {asked.workers} workers; {folder / RESULTS}"
        )
    if failed:
        raise GateError(f"{len(failed)} of {len(rows)} runs failed")
