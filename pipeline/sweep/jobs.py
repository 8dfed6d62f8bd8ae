"""``sweep``: the whole catalogue through the main job, in worker processes that a failing entry cannot stop.

Each worker keeps one interpreter (importing the exporter costs more than exporting a small entry) and writes each
job's words to a log of its own. A job that takes too long, or takes its worker with it, is a failure of that job;
the worker is replaced. What has not changed since the last sweep (code, options, versions) is not run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export import __version__, bundle
from attn_export.deploy_tests.machine import environment
from attn_export.errors import WriteError
from attn_export.mechanisms import MECHANISMS, static_spec
from attn_export.process import activity, children
from attn_export.untrusted import fields, plain_json

if TYPE_CHECKING:
    from attn_export.pipeline.options import Mutants

RESULTS = "sweep.json"
#: What every entry depends on besides its own file.
_SHARED = (
    "mechanisms/_layers",
    "reparam",
    "export",
    "deploy_tests",
    "pipeline",
    "bundle",
)


@dataclass(frozen=True)
class SweepJob:
    """One entry under one preset, plain or fused."""

    name: str
    preset: str
    fuse: bool

    @property
    def label(self) -> str:
        """How it is called in the table and on disk."""
        return f"{self.name}-{self.preset}{'-fused' if self.fuse else ''}"


@dataclass(frozen=True)
class SweepRow:
    """The end of one job: ``passed``, or which kind of failure with its sentence."""

    label: str
    status: str
    message: str
    seconds: float
    key: str
    result: Mapping[str, Any] | None = None
    cached: bool = False

    @property
    def ok(self) -> bool:
        """Whether every gate passed."""
        return self.status == "passed"


@dataclass(frozen=True)
class _Results:
    """What ``sweep.json`` holds."""

    rows: tuple[SweepRow, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for the whole sweep; ``job_timeout`` in seconds."""

    folder: Path
    workers: int = 2
    job_timeout: float = 600.0
    bench: bool = False
    cache: bool = True
    mutants: Mutants = "fast"


def jobs(families: Sequence[str], presets: Sequence[str], *, fuse: bool | None, variants: bool) -> list[SweepJob]:
    """Every job of the catalogue: the named presets where an entry has them, and its variants.

    ``fuse`` None runs each both plain and fused.
    """
    found = []
    for name, place in MECHANISMS.entries.items():
        if place.path is None or (families and place.family not in families):
            continue
        spec = static_spec.read(place.path).spec
        chosen = [p for p in presets if p in spec.configurations] + (list(spec.variants) if variants else [])
        for preset in dict.fromkeys(chosen):
            found += [SweepJob(name, preset, mode) for mode in ((False, True) if fuse is None else (fuse,))]
    return found


def sweep(
    wanted: Sequence[SweepJob], settings: Settings, said: Callable[[SweepRow, int, int], None] = lambda *_: None
) -> list[SweepRow]:
    """Run every job and keep the results in ``sweep.json`` beside the logs and bundles; rows in the jobs' order."""
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(settings.folder, error) from error
    known = _load(settings.folder / RESULTS)
    known = known if settings.cache else {}
    shared = _shared_key(settings)
    keys = {job.label: _key(job, shared) for job in wanted}
    rows: dict[str, SweepRow] = {}
    left: list[SweepJob] = []
    for job in wanted:
        old = known.get(job.label)
        if old and old.ok and old.key == keys[job.label] and (settings.folder / job.label / bundle.MANIFEST).is_file():
            rows[job.label] = SweepRow(**{**asdict(old), "cached": True})
            said(rows[job.label], len(rows), len(wanted))
        else:
            left.append(job)
    for row in _work(left, keys, settings):
        rows[row.label] = row
        said(row, len(rows), len(wanted))
        _save(settings.folder / RESULTS, {**known, **rows})
    _save(settings.folder / RESULTS, {**known, **rows})
    return [rows[job.label] for job in wanted]


class _Worker:
    """An interpreter that takes jobs as lines of JSON, and answers each with one."""

    def __init__(self, settings: Settings) -> None:
        self.process = children.start(
            "attn_export.pipeline.sweep.worker",
            json.dumps({"folder": str(settings.folder), "bench": settings.bench, "mutants": settings.mutants}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.jobs, self.answers = self.process.stdin, self.process.stdout
        self.job: SweepJob | None = None
        self.began = 0.0

    def give(self, job: SweepJob) -> None:
        """Hand it a job; where it is dead already, its answer says so."""
        self.job, self.began = job, time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self.jobs.write(json.dumps({**asdict(job), "label": job.label}).encode() + b"\n")
            self.jobs.flush()

    def answer(self, key: str, limit: float) -> SweepRow | None:
        """Return the row of its job, or None while that runs."""
        assert self.job is not None
        spent = time.monotonic() - self.began

        def row(status: str, message: str, result: dict[str, Any] | None = None) -> SweepRow:
            assert self.job is not None
            return SweepRow(self.job.label, status, message, round(spent, 2), key, result)

        if select.select([self.answers], [], [], 0)[0]:
            if line := self.answers.readline():
                return row(*json.loads(line))
            return row("died", children.ending(self.process.wait()))
        if spent > limit:
            return row("too slow", f"stopped after {limit:.0f} s")
        return None

    def end(self) -> None:
        """Kill it, whatever it does."""
        self.process.kill()
        self.process.communicate()


def _work(left: list[SweepJob], keys: dict[str, str], settings: Settings) -> Iterator[SweepRow]:
    """Feed the workers; replace those that died or took too long."""
    queue = list(reversed(left))
    workers = [_Worker(settings) for _ in range(min(settings.workers, len(queue)))]
    try:
        while queue or any(worker.job for worker in workers):
            activity.alive()  # each job has a limit of its own
            for worker in workers:
                if worker.job is None and queue:
                    worker.give(queue.pop())
            select.select([worker.answers for worker in workers if worker.job], [], [], 1.0)
            for place, worker in enumerate(workers):
                if worker.job is None or (row := worker.answer(keys[worker.job.label], settings.job_timeout)) is None:
                    continue
                worker.job = None
                if row.status in ("died", "too slow"):
                    worker.end()
                    workers[place] = _Worker(settings)
                yield row
    finally:
        for worker in workers:
            worker.end()


def _shared_key(settings: Settings) -> str:
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(
        json.dumps([__version__, settings.bench, settings.mutants, environment.describe()["libraries"]]).encode()
    )
    for place in _SHARED:
        path = root / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _key(job: SweepJob, shared: str) -> str:
    path = MECHANISMS.entry(job.name).path
    assert path is not None
    return hashlib.sha256(f"{shared} {job} {bundle.sha256(path)}".encode()).hexdigest()


def _load(file: Path) -> dict[str, SweepRow]:
    """Read the rows of an earlier sweep.

    Raises:
        WriteError: the file is something else, and would be overwritten.
    """
    if not os.path.lexists(file):
        return {}
    content = plain_json.read(file, WriteError)
    if not isinstance(content, dict) or content.keys() != {"environment", "rows"}:
        raise WriteError(
            f"{file} is not the result of a sweep, and would be overwritten; choose another folder with -o"
        )
    try:
        return {row.label: row for row in fields.build(_Results, content).rows}
    except ValueError:
        return {}  # one of another version: run everything


def _save(file: Path, rows: dict[str, SweepRow]) -> None:
    partial = file.with_suffix(".partial")
    content = {"environment": environment.describe(), "rows": [asdict(row) for row in rows.values()]}
    try:
        bundle.write_json(partial, content)
        partial.replace(file)
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(place: Path, error: OSError) -> WriteError:
    why = error.strerror or str(error)
    return WriteError(f"cannot write the sweep {place}: {why}; free some space or choose another place with -o")
