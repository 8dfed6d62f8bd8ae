"""``sweep``: the whole catalogue through the main job, in worker processes that a failing entry cannot stop.

Each worker keeps one interpreter (importing the exporter costs more than exporting a small entry) and writes each
job's words to a log of its own. A job that takes too long, or takes its worker with it, is a failure of that job;
the worker is replaced. What has not changed since the last sweep (code, options, versions) is not run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export import __version__, bundle
from attn_export.deploy_tests import environment
from attn_export.errors import AttnExportError, WriteError
from attn_export.mechanisms import MECHANISMS, card
from attn_export.untrusted import fields, plain_json

if TYPE_CHECKING:
    from attn_export.tools.job.plan import Mutants

RESULTS = "sweep.json"
#: What every entry depends on besides its own file.
_SHARED = (
    "mechanisms/_parts",
    "mechanisms/awaken.py",
    "mechanisms/subject.py",
    "reparam",
    "export",
    "deploy_tests",
    "tools/job",
    "bundle",
)


@dataclass(frozen=True)
class Job:
    """One entry under one preset, plain or fused."""

    name: str
    preset: str
    fuse: bool

    @property
    def label(self) -> str:
        """How it is called in the table and on disk."""
        return f"{self.name}-{self.preset}{'-fused' if self.fuse else ''}"


@dataclass(frozen=True)
class Row:
    """The end of one job: ``passed``, or which kind of failure with its sentence."""

    label: str
    status: str
    message: str
    seconds: float
    key: str
    result: Mapping[str, Any] | None = None
    kept: bool = False

    @property
    def ok(self) -> bool:
        """Whether every gate passed."""
        return self.status == "passed"


@dataclass(frozen=True)
class _Results:
    """What ``sweep.json`` holds."""

    rows: tuple[Row, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What holds for the whole sweep; ``limit`` in seconds."""

    folder: Path
    workers: int = 2
    limit: float = 600.0
    measure: bool = False
    again: bool = False
    mutants: Mutants = "fast"


def jobs(families: Sequence[str], presets: Sequence[str], *, fuse: bool | None, variants: bool) -> list[Job]:
    """Every job of the catalogue: the named presets where an entry has them, and its variants.

    ``fuse`` None runs each both plain and fused.
    """
    found = []
    for name, place in MECHANISMS.places.items():
        if place.path is None or (families and place.family not in families):
            continue
        spec = card.read(place.path).spec
        chosen = [p for p in presets if p in spec.configurations] + (list(spec.variants) if variants else [])
        for preset in dict.fromkeys(chosen):
            found += [Job(name, preset, mode) for mode in ((False, True) if fuse is None else (fuse,))]
    return found


def sweep(
    wanted: Sequence[Job], settings: Settings, said: Callable[[Row, int, int], None] = lambda *_: None
) -> list[Row]:
    """Run every job and keep the results in ``sweep.json`` beside the logs and bundles; rows in the jobs' order."""
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(settings.folder, error) from error
    known = _load(settings.folder / RESULTS)
    known = {} if settings.again else known
    shared = _shared_key(settings)
    keys = {job.label: _key(job, shared) for job in wanted}
    rows: dict[str, Row] = {}
    left: list[Job] = []
    for job in wanted:
        old = known.get(job.label)
        if old and old.ok and old.key == keys[job.label] and (settings.folder / job.label / bundle.MANIFEST).is_file():
            rows[job.label] = Row(**{**asdict(old), "kept": True})
            said(rows[job.label], len(rows), len(wanted))
        else:
            left.append(job)
    for row in _work(left, keys, settings):
        rows[row.label] = row
        said(row, len(rows), len(wanted))
        _save(settings.folder / RESULTS, {**known, **rows})
    _save(settings.folder / RESULTS, {**known, **rows})
    return [rows[job.label] for job in wanted]


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    job: Job | None = None
    began: float = 0.0


def _work(left: list[Job], keys: dict[str, str], settings: Settings) -> Iterator[Row]:
    """Feed the workers; replace those that died or took too long."""
    context = multiprocessing.get_context("spawn")
    queue = list(reversed(left))

    def hire() -> _Worker:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, settings), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here)

    workers = [hire() for _ in range(min(settings.workers, len(queue)))]
    try:
        while queue or any(worker.job for worker in workers):
            for worker in workers:
                if worker.job is None and queue:
                    worker.job, worker.began = queue.pop(), time.monotonic()
                    worker.pipe.send(worker.job)
            wait([worker.pipe for worker in workers if worker.job], timeout=1.0)
            for place, worker in enumerate(workers):
                if worker.job is None:
                    continue
                row = _answer(worker, keys[worker.job.label], settings.limit)
                if row is None:
                    continue
                worker.job = None
                if not worker.process.is_alive() or row.status in ("died", "too slow"):
                    worker.process.kill()
                    worker.process.join()
                    workers[place] = hire()
                yield row
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


def _answer(worker: _Worker, key: str, limit: float) -> Row | None:
    assert worker.job is not None
    spent = time.monotonic() - worker.began
    try:
        if worker.pipe.poll():
            status, message, result = worker.pipe.recv()
            return Row(worker.job.label, status, message, round(spent, 2), key, result)
    except EOFError:
        worker.process.join(5)
        return Row(worker.job.label, "died", f"exit code {worker.process.exitcode}", round(spent, 2), key)
    if spent > limit:
        return Row(worker.job.label, "too slow", f"stopped after {limit:.0f} s", round(spent, 2), key)
    return None


def _serve(pipe: Connection, settings: Settings) -> None:
    """Be a worker: take jobs until the parent ends."""
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        with (
            (settings.folder / f"{job.label}.log").open("w", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            answer = _run(job, settings)
        pipe.send(answer)


def _run(job: Job, settings: Settings) -> tuple[str, str, dict[str, Any] | None]:
    """Run one job in this process; whatever happens is an answer."""
    try:
        import torch

        from attn_export.mechanisms.subject import from_spec
        from attn_export.tools.job import pipeline, portable, tables
        from attn_export.tools.job.plan import Plan
        from attn_export.tools.job.progress import Progress

        torch.set_num_threads(1)
        subject = from_spec(job.name, MECHANISMS[job.name], job.preset)
        plan = Plan(
            settings.folder / job.label,
            fuse=job.fuse,
            measure=settings.measure,
            mutants=settings.mutants,
            command=("sweep", job.label),
        )
        outcome = pipeline.deploy(subject, plan, Progress(1))
        portable.gate(subject, bundle.read(settings.folder / job.label).model)
        return "passed", outcome.steps[-1].parity.sentence(), tables.as_json(outcome)
    except AttnExportError as error:
        return type(error).__name__, str(error), None
    except Exception as error:  # a defect of ours: told like any other failure, with its trace in the log
        traceback.print_exc()
        return "crashed", f"{type(error).__name__}: {error}", None


def _shared_key(settings: Settings) -> str:
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(
        json.dumps([__version__, settings.measure, settings.mutants, environment.describe()["libraries"]]).encode()
    )
    for place in _SHARED:
        path = root / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _key(job: Job, shared: str) -> str:
    path = MECHANISMS.place(job.name).path
    assert path is not None
    return hashlib.sha256(f"{shared} {job} {bundle.sha256(path)}".encode()).hexdigest()


def _load(file: Path) -> dict[str, Row]:
    """The rows of an earlier sweep.

    Raises:
        WriteError: the file is something else, and would be overwritten.
    """
    if not os.path.lexists(file):
        return {}
    content = plain_json.read(file, WriteError)
    if not isinstance(content, dict) or content.keys() != {"environment", "rows"}:
        raise WriteError(f"{file} is no result of a sweep, and would be overwritten; choose another folder with -o")
    try:
        return {row.label: row for row in fields.build(_Results, content).rows}
    except ValueError:
        return {}  # one of another version: run everything


def _save(file: Path, rows: dict[str, Row]) -> None:
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
