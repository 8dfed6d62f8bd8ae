"""The jobs of a sweep: one that makes a bundle, and one that proves and measures a bundle on one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from attn_export.pipeline.options import Precision

#: The name of the device that is the machine itself where nothing else is said.
HERE = "local"


@dataclass(frozen=True)
class SweepJob:
    """One entry under one preset, plain or fused: any machine can make its bundle."""

    name: str
    preset: str
    fuse: bool
    precision: Precision = "float32"
    to: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How it is called in the table and on disk."""
        half = "" if self.precision == "float32" else f"-{self.precision}"
        return f"{self.name}-{self.preset}{'-fused' if self.fuse else ''}{half}"


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """How latency is taken: the options of ``attn-export bench``, in its units."""

    warmup: float = 200.0
    iterations: int = 200
    duration: float = 3.0
    threads: int = 1


@dataclass(frozen=True)
class MeasureJob:
    """One bundle on one runtime of one device: proven there first, then measured, with nothing beside it.

    Attributes:
        bundle: the label of the job that makes it, or its own where it is given.
        target: the backend.
        device: its name; whoever can reach it offers ``device:NAME``.
        address: how a worker beside the device reaches it, as ``ssh://user@host``; empty where it is the worker's own
            machine.
        bench: how latency is taken.
    """

    bundle: str
    target: str
    device: str = HERE
    address: str = ""
    bench: BenchSettings = field(default_factory=BenchSettings)

    @property
    def label(self) -> str:
        """How it is called in the table and on disk."""
        return f"{self.bundle}@{self.target}@{self.device}"


Job = SweepJob | MeasureJob


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep does.

    Attributes:
        builds: jobs that make bundles.
        measures: jobs on bundles, each of which is a build's or is given.
        given: bundles that are there already, by label.
    """

    builds: tuple[SweepJob, ...] = ()
    measures: tuple[MeasureJob, ...] = ()
    given: Mapping[str, Path] = field(default_factory=dict)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All of them, what makes a bundle first."""
        return (*self.builds, *self.measures)

    @cached_property
    def named(self) -> dict[str, Job]:
        """Give each job by its label."""
        return {job.label: job for job in self.jobs}
