"""``sweep`` on the command line: a line for each entry as it ends, a table of what failed, and the count."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from attn_export.errors import GateError, UnknownNameError, UsageError
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.sweep.jobs import RESULTS, Settings, SweepRow, jobs
from attn_export.pipeline.sweep.jobs import sweep as run
from attn_export.tools import console


def sweep(
    families: Sequence[str],
    presets: Sequence[str],
    fuse: bool | None,
    variants: bool,
    folder: Path,
    workers: int,
    limit: float,
    measure: bool,
    again: bool,
    mutants: Any,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run it; exit 1 when any entry failed."""
    known = sorted({place.family for place in MECHANISMS.entries.values()})
    for family in families:
        if family not in known:
            raise UnknownNameError("family", family, known)
    from attn_export.pipeline.options import Mutants  # imports torch

    if mutants not in get_args(Mutants):
        raise UnknownNameError("kind of --mutants", mutants, get_args(Mutants))
    wanted = jobs(families, presets, fuse=fuse, variants=variants)
    if not wanted:
        raise UsageError(f"no entry has a preset called {' or '.join(presets)}; `attn-export show NAME` lists them")

    def said(row: SweepRow, done: int, of: int) -> None:
        if not quiet:
            kept = " (unchanged)" if row.kept else ""
            console.say(f"[{done}/{of}] {row.label}: {row.status}{kept}, {row.message}, {row.seconds:.1f} s", err=True)

    began = time.perf_counter()
    rows = run(wanted, Settings(folder, workers, limit, measure, again, mutants), said)
    failed = [row for row in rows if not row.ok]
    if as_json:
        console.emit([asdict(row) for row in rows])
    else:
        for row in failed:
            console.say(f"{row.label}: {row.status}: {row.message}  ({folder / row.label}.log)")
        entries = len({job.name for job in wanted})
        minutes = (time.perf_counter() - began) / 60
        console.say(
            f"{len(rows) - len(failed)} of {len(rows)} runs of {entries} entries passed, none skipped,"
            f" {sum(row.kept for row in rows)} unchanged; {minutes:.1f} minutes, {workers} workers; {folder / RESULTS}"
        )
    if failed:
        raise GateError(f"{len(failed)} of {len(rows)} runs failed")
