"""``sweep``: every job of a plan on an engine, one row each, in a table that grows as they end.

What has not changed since the last sweep (code, options, versions, for a measurement the very bundle and the device) is
not run again. A bundle is measured when it is there; where the job that makes it fails, what would measure it is a row
that says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from attn_export import bundle
from attn_export.errors import AttnExportError, UsageError
from attn_export.pipeline.sweep import engine as engines
from attn_export.pipeline.sweep import versions
from attn_export.pipeline.sweep.child import WORKER
from attn_export.pipeline.sweep.engine import Done, Engine, Machine, token
from attn_export.pipeline.sweep.job import MeasureJob, Plan, SweepJob
from attn_export.pipeline.sweep.keys import BuildKeys, measure_key
from attn_export.pipeline.sweep.local import Local
from attn_export.pipeline.sweep.order import Order
from attn_export.pipeline.sweep.rows import NO_BUNDLE, SweepRow, Table, unwritable
from attn_export.untrusted import files

if TYPE_CHECKING:
    from attn_export.pipeline.options import Mutants

Said = Callable[[SweepRow, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for the whole sweep; ``job_timeout`` in seconds."""

    folder: Path
    workers: int = 2
    job_timeout: float = 600.0
    bench: bool = False
    cache: bool = True
    mutants: Mutants = "fast"
    module: str = WORKER


def sweep(plan: Plan, settings: Settings, said: Said = lambda *_: None, engine: Engine | None = None) -> list[SweepRow]:
    """Run every job and keep the results in ``sweep.json`` beside the logs and bundles; rows in the jobs' order.

    Args:
        plan: what is to be done.
        settings: where to, and what holds for all jobs.
        said: called with each row as it comes, how many there are, and how many there will be.
        engine: where jobs run; workers of this machine by default. It is closed.

    Raises:
        WriteError: the table cannot be written, or what lies there is none.
        BackendMissingError: no machine has what a job needs; nothing was begun.
        AttnExportError: a machine has other versions than this one; nothing was begun.
    """
    table = Table(settings.folder)
    if engine is None:
        devices = tuple(job.device for job in plan.measures if job.address)
        engine = Local(settings.folder, settings.workers, devices, settings.module)
    with contextlib.closing(engine):
        machines = engine.machines()
        here = versions.here()
        engines.refuse_other_versions(machines, here)
        engines.refuse_unmet(plan.jobs, machines)
        try:
            settings.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(settings.folder, error) from error
        running = _Sweep(plan, settings, table, machines, here)
        rows: dict[str, SweepRow] = {}
        total = len({job.label for job in plan.jobs})
        try:
            for row in running.rows(engine):
                rows[row.label] = row
                if not row.cached:
                    table.put(row)
                said(row, len(rows), total)
        finally:
            table.save()
    return [rows[job.label] for job in plan.jobs]


class _Sweep:
    """One sweep under way: which jobs wait for which bundle, and what is known already."""

    def __init__(
        self, plan: Plan, settings: Settings, table: Table, machines: Sequence[Machine], here: Mapping[str, str]
    ) -> None:
        self._plan, self._settings, self._machines, self._here = plan, settings, machines, here
        self._known = dict(table.rows) if settings.cache else {}
        self._keys = BuildKeys(here, bench=settings.bench, mutants=settings.mutants)
        self._waiting: dict[str, list[MeasureJob]] = {}
        self._known_needs: dict[tuple[str, str], Mapping[str, float]] = {}
        for job in dict.fromkeys(plan.measures):
            self._waiting.setdefault(job.bundle, []).append(job)
        if lost := self._waiting.keys() - plan.given.keys() - {job.label for job in plan.builds}:
            raise UsageError(f"expected a job that makes the bundle {min(lost)!r}, got none")

    def rows(self, engine: Engine) -> Iterator[SweepRow]:
        """Submit what must be run, and yield every job's row once."""
        for label, folder in self._plan.given.items():
            yield from self._measures(engine, label, folder)
        for job in dict.fromkeys(self._plan.builds):
            order = self._order(job, self._keys.of(job))
            if row := self._unchanged(order, self._settings.folder / job.label / bundle.MANIFEST):
                yield row
                yield from self._measures(engine, job.label, self._settings.folder / job.label)
            else:
                engine.submit(order)
        for done in engine.as_completed():
            row = self._kept(done)
            yield row
            if row.ok:
                yield from self._measures(engine, row.label, self._settings.folder / row.label)
            else:
                yield from self._without(row)

    def _measures(self, engine: Engine, label: str, folder: Path) -> Iterator[SweepRow]:
        """Submit what is measured of a bundle that is there, and yield what is known already."""
        jobs = self._waiting.pop(label, [])
        digest = bundle.digest(folder) if jobs else ""
        for job in jobs:
            key = measure_key(job, digest, self._identity(job), self._here)
            order = self._order(job, key, folder)
            if row := self._unchanged(order, self._settings.folder / job.label / "bench.json"):
                yield row
            else:
                engine.submit(order)

    def _without(self, made: SweepRow) -> Iterator[SweepRow]:
        """Yield the rows of what cannot be measured."""
        for job in self._waiting.pop(made.label, []):
            yield SweepRow(job.label, NO_BUNDLE, f"{made.label}: {made.status}", 0.0, "")

    def _order(self, job: SweepJob | MeasureJob, key: str, folder: Path | None = None) -> Order:
        return Order(
            job=job,
            key=key,
            needs=self._needs(job),
            bundle=folder,
            limit=self._settings.job_timeout,
            bench=self._settings.bench,
            mutants=self._settings.mutants,
            versions=self._here,
            module=self._settings.module,
        )

    def _needs(self, job: SweepJob | MeasureJob) -> Mapping[str, float]:
        """Say what a job takes; what alike jobs take is worked out once."""
        kind = engines.alike(job)
        if kind not in self._known_needs:
            self._known_needs[kind] = engines.needs(job, self._machines)
        return self._known_needs[kind]

    def _unchanged(self, order: Order, proof: Path) -> SweepRow | None:
        old = self._known.get(order.job.label)
        if old and old.ok and old.key == order.key and proof.is_file():
            return SweepRow(**{**asdict(old), "cached": True})
        return None

    def _identity(self, job: MeasureJob) -> str:
        """Tell which machine is measured; those of one name are taken for one."""
        if job.address:
            return job.address
        return min((m.identity for m in self._machines if m.meets({token(job.device): 1})), default="")

    def _kept(self, done: Done) -> SweepRow:
        """Put what was made elsewhere where it would lie had it been made here."""
        if done.files is None:
            return done.row
        row, label = done.row, done.row.label
        try:
            _place(self._settings.folder, label, done.files)
        except (AttnExportError, OSError) as error:
            return replace(row, status="died", message=f"what {row.where} sent is not whole: {error}", result=None)
        if row.result is not None and "bundle" in row.result:
            own = done.order.bundle or self._settings.folder / label
            row = replace(row, result={**row.result, "bundle": str(own)})
        return row


def _place(folder: Path, label: str, content: Mapping[str, bytes]) -> None:
    """Write the log, and the bundle or the reports, of one job.

    Raises:
        AttnExportError: a name leads elsewhere, or a bundle is not what its manifest says.
        OSError: it cannot be written.
    """
    inner = {name.removeprefix(f"{label}/"): data for name, data in content.items() if name.startswith(f"{label}/")}
    if f"{label}.log" in content:
        (folder / f"{label}.log").write_bytes(content[f"{label}.log"])
    if bundle.MANIFEST in inner:
        with bundle.writing(folder / label) as place:
            _write(place, inner)
            bundle.read(place)
    elif inner:
        (folder / label).mkdir(exist_ok=True)
        _write(folder / label, inner)


def _write(place: Path, content: Mapping[str, bytes]) -> None:
    for name, data in content.items():
        file = files.inside(place, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
