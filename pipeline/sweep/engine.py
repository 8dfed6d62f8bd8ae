"""Where jobs run: an engine takes orders, and gives back each one's row as it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from attn_export.errors import AttnExportError, BackendMissingError
from attn_export.pipeline.sweep import versions
from attn_export.pipeline.sweep.job import Job, MeasureJob
from attn_export.pipeline.sweep.order import Order
from attn_export.pipeline.sweep.rows import SweepRow

CPU = "cpu"


def token(device: str) -> str:
    """Name the resource of whoever can reach a device; there is one of it, so a device does one thing at a time."""
    return f"device:{device}"


@dataclass(frozen=True)
class Machine:
    """One that takes jobs.

    Attributes:
        name: for people.
        offers: how much of what: ``cpu`` for jobs side by side, ``device:NAME`` for each device.
        versions: what it computes with; empty where that cannot be asked.
        identity: which machine it is (``versions.identity``).
        fault: why it takes no job, in a sentence; empty where it does.
    """

    name: str
    offers: Mapping[str, float]
    versions: Mapping[str, str] = field(default_factory=dict)
    identity: str = ""
    fault: str = ""

    def meets(self, needs: Mapping[str, float]) -> bool:
        """Whether it has all of what a job needs."""
        return all(self.offers.get(name, 0) >= amount for name, amount in needs.items())


class Done(NamedTuple):
    """The end of one order; ``files`` by name, where they were made on another machine."""

    order: Order
    row: SweepRow
    files: Mapping[str, bytes] | None = None


class Engine(Protocol):
    """What runs jobs."""

    def machines(self) -> Sequence[Machine]:
        """Ask who takes jobs, and what each one offers."""
        ...

    def submit(self, order: Order) -> None:
        """Take an order; it may be called while the results of others come."""
        ...

    def as_completed(self) -> Iterator[Done]:
        """Yield every order once, as it ends, until all have; None of them is left out, whatever becomes of it."""
        ...

    def close(self) -> None:
        """Let go of everything; what runs still is ended."""
        ...


def alike(job: Job) -> tuple[str, str]:
    """Tell apart what needs different things."""
    return (job.device, job.address) if isinstance(job, MeasureJob) else ("", "")


def needs(job: Job, machines: Sequence[Machine]) -> dict[str, float]:
    """Say what a job takes: a build one ``cpu``; a measurement its device, and all of the machine where that is it.

    One pool for both, so that no build can run beside a measurement.

    >>> from attn_export.pipeline.sweep.job import SweepJob
    >>> there = [Machine("a", {"cpu": 4, "device:rack": 1, "device:jetson": 1}), Machine("b", {"cpu": 8})]
    >>> needs(SweepJob("se", "test", False), there)
    {'cpu': 1}
    >>> needs(MeasureJob("se-test", "x", "rack"), there)
    {'device:rack': 1, 'cpu': 4}
    >>> needs(MeasureJob("se-test", "x", "jetson", "ssh://jetson"), there)
    {'device:jetson': 1}
    """
    if not isinstance(job, MeasureJob):
        return {CPU: 1}
    device: dict[str, float] = {token(job.device): 1}
    if job.address:
        return device
    whole = max((machine.offers.get(CPU, 0) for machine in machines if machine.meets(device)), default=0)
    return {**device, CPU: max(whole, 1)}


def refuse_unmet(jobs: Sequence[Job], machines: Sequence[Machine]) -> None:
    """Refuse jobs that would wait for ever, before any is begun.

    Raises:
        BackendMissingError: nobody has what one of them needs; all such are named.
    """
    wanted: dict[str, int] = {}
    kinds = {alike(job): job for job in jobs}
    for kind, count in Counter(map(alike, jobs)).items():
        need = needs(kinds[kind], machines)
        if not any(machine.meets(need) for machine in machines):
            lacking = [name for name, amount in need.items() if not any(m.meets({name: amount}) for m in machines)]
            name = " with ".join(lacking or need)
            wanted[name] = wanted.get(name, 0) + count
    if wanted:
        named = ", ".join(f"{name} ({count} job{'s' if count > 1 else ''})" for name, count in sorted(wanted.items()))
        offered = ", ".join(sorted({name for machine in machines for name in machine.offers})) or "nothing"
        raise BackendMissingError(
            f"no worker offers {named}; the {len(machines)} there offer {offered};"
            " start one with --resources, or leave that device out of the matrix"
        )


def refuse_other_versions(machines: Sequence[Machine], wanted: Mapping[str, str]) -> None:
    """Refuse machines that would give other results than this one.

    Raises:
        AttnExportError: one of them cannot take jobs, or has other versions; it is named, with what differs.
    """
    for machine in machines:
        if machine.fault:
            raise AttnExportError(f"the worker {machine.name} takes no job: {machine.fault}")
        if found := versions.differences(wanted, machine.versions):
            raise AttnExportError(f"the worker {machine.name} has other versions: {found}; install the same there")
