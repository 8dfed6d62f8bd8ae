"""One job with everything that whoever runs it must know, as plain data that travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attn_export.pipeline.sweep.child import WORKER
from attn_export.pipeline.sweep.job import Job, MeasureJob, SweepJob
from attn_export.pipeline.sweep.rows import SweepRow
from attn_export.untrusted import fields


@dataclass(frozen=True, kw_only=True)
class Order:
    """One job that is to be run.

    Attributes:
        job: what is to be done.
        key: what its result holds for.
        needs: what the machine that runs it must offer, and how much of it.
        bundle: the folder of the bundle that is measured, where the sweep was asked for; None for a build.
        limit: seconds that it may take.
        bench: whether a build measures, too.
        mutants: how many faults a build injects.
        versions: what it must be run with.
        module: what runs builds; another one in tests and benchmarks alone.
    """

    job: Job
    key: str
    needs: Mapping[str, float] = field(default_factory=dict)
    bundle: Path | None = None
    limit: float = 600.0
    bench: bool = False
    mutants: str = "fast"
    versions: Mapping[str, str] = field(default_factory=dict)
    module: str = WORKER

    def row(self, status: str, message: str, **more: Any) -> SweepRow:
        """Make a row of what became of it."""
        return SweepRow(self.job.label, status, message, key=self.key, **{"seconds": 0.0, **more})

    def plain(self) -> dict[str, Any]:
        """Give plain data, without what the machine that runs it has no use for."""
        kind = "measure" if isinstance(self.job, MeasureJob) else "build"
        kept = {name: value for name, value in vars(self).items() if name not in ("job", "needs", "bundle")}
        return {**kept, "versions": dict(self.versions), "kind": kind, "job": asdict(self.job)}


def read(plain: Mapping[str, Any]) -> Order:
    """Make an order of plain data.

    Raises:
        ValueError: it is none.
    """
    rest = {name: value for name, value in plain.items() if name not in ("kind", "job")}
    kinds: dict[str, type[SweepJob] | type[MeasureJob]] = {"build": SweepJob, "measure": MeasureJob}
    return Order(job=fields.build(kinds[plain["kind"]], plain["job"]), **rest)
