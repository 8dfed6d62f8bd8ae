"""200 jobs on a scheduler and two workers with TLS, while parts of it are killed: every job is one row all the same.

    python -m benchmarks.farm [--jobs 200]        needs attn-export[farm,export], openssl and psutil

A worker is killed, a job kills its worker, one holds too much memory, the scheduler is killed, and a device is asked
for that nobody has. Then it is looked whether a measurement overlapped with anything, and what a job costs that does
nothing. Exits with 1 where anything else was met than is promised.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from attn_export.errors import BackendMissingError
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.sweep.catalogue import jobs
from attn_export.pipeline.sweep.farm import Farm
from attn_export.pipeline.sweep.job import BenchSettings, MeasureJob, Plan, SweepJob
from attn_export.pipeline.sweep.rows import SweepRow, Table, exit_code
from attn_export.pipeline.sweep.sweeping import Settings, sweep
from benchmarks.farm.cluster import LocalCluster, running
from benchmarks.farm.jobs import BEGUN, SLEEP

MODULE = "benchmarks.farm.jobs"
QUICK = BenchSettings(warmup=0, iterations=20, duration=0)
#: Real entries, and bundles that are measured on both workers' machines.
ENTRIES, BUNDLES = 16, 8
#: Milliseconds that every other job sleeps.
NAP = 150


def plan(count: int, honest: Path, folder: Path) -> Plan:
    """Make ``count`` jobs: entries, measurements, the two bad ones, and the rest asleep."""
    given = {}
    for number in range(BUNDLES):
        given[f"given-{number}"] = folder / f"given-{number}"
        shutil.copytree(honest, given[f"given-{number}"])
    measures = [MeasureJob(name, "onnxruntime", f"rack-{w}", "", QUICK) for name in given for w in "ab"]
    entries = jobs([], ["test"], fuse=False, variants=False)[:ENTRIES]
    bad = [SweepJob("se", "kill", fuse=False), SweepJob("se", "hold", fuse=False)]
    asleep = [SweepJob("se", f"sleep-{n}", fuse=False) for n in range(count - len(entries) - len(measures) - len(bad))]
    third = len(asleep) // 3
    builds = [*asleep[:third], *entries, *asleep[third : 2 * third], *bad, *asleep[2 * third :]]
    return Plan(tuple(builds), tuple(measures), given)


@dataclass(frozen=True)
class Span:
    """When a job ran."""

    label: str
    began: float
    ended: float
    alone: bool


def overlaps(rows: Sequence[SweepRow]) -> list[str]:
    """Name every pair of jobs that ran at the same time though one of them was to be alone on the machine."""
    spans = [Span(row.label, row.began, row.began + row.seconds, "@" in row.label) for row in rows if row.began]
    spans.sort(key=lambda span: span.began)
    pairs = ((first, second) for place, first in enumerate(spans) for second in spans[place + 1 :])
    # Rows give hundredths of a second.
    beside = (pair for pair in pairs if pair[1].began < pair[0].ended - 0.01)
    return [f"{first.label} and {second.label}" for first, second in beside if first.alone or second.alone]


def main() -> None:
    """Run it and print what was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    count = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[BEGUN], os.environ[SLEEP] = str(folder / "begun"), str(NAP)
        first = Settings(folder=folder / "honest", workers=1, mutants="none")
        honest = sweep(Plan((SweepJob("se", "test", fuse=False),)), first)[0]
        assert honest.ok, honest
        with running(folder) as cluster:
            faults = [
                *_nobody(cluster, folder),
                *_killed(cluster, plan(count, folder / "honest/se-test", folder), folder),
            ]
            _overhead(cluster, folder)
    for fault in faults:
        print(f"FAULT: {fault}")
    sys.exit(bool(faults))


def _nobody(cluster: LocalCluster, folder: Path) -> list[str]:
    """Ask for a device that nobody has."""
    wanted = Plan((SweepJob("se", "test", fuse=False),), (MeasureJob("se-test", "onnxruntime", "jetson-7"),))
    began = time.perf_counter()
    try:
        sweep(wanted, Settings(folder=folder / "nobody"), engine=Farm(cluster.connect()))
    except BackendMissingError as error:
        print(f"a device that nobody has: exit {error.exit_code} after {time.perf_counter() - began:.1f} s: {error}")
        return [] if not (folder / "nobody").exists() else ["something was begun for a device that nobody has"]
    return ["a device that nobody has was not refused"]


def _killed(cluster: LocalCluster, wanted: Plan, folder: Path) -> list[str]:
    """Run the jobs, and kill a worker and the scheduler meanwhile."""
    seen: list[str] = []
    total = len(wanted.jobs)

    def said(row: SweepRow, done: int, of: int) -> None:
        seen.append(row.label)
        if done == of * 4 // 10:
            print(f"  {done} of {of}: worker a is killed")
            cluster.kill_worker("a")
        if done == of * 7 // 10:
            print(f"  {done} of {of}: the scheduler is killed")
            cluster.kill_scheduler()
        if row.status != "passed":
            print(f"  {row.label}: {row.status}: {row.message}")

    settings = Settings(folder=folder / "out", mutants="none", module=MODULE, job_timeout=300)
    began, load = time.perf_counter(), os.getloadavg()[0]
    rows = sweep(wanted, settings, said, Farm(cluster.connect()))
    seconds = time.perf_counter() - began
    begun = Counter((folder / "begun").read_text().split())
    again = {label: times for label, times in begun.items() if times > 1}
    statuses = Counter(row.status for row in rows)
    written = Table(folder / "out").rows
    together = overlaps(rows)
    measured = sum("@" in row.label for row in rows)
    print(
        f"{len(rows)} rows of {total} jobs in {seconds:.0f} s (load before: {load:.1f}): {dict(statuses)};"
        f" exit {exit_code(rows)}"
    )
    print(f"begun more than once: {again or 'none'}")
    print(f"measurements: {measured}; overlapping with anything: {len(together)}")
    print(f"starts: { {name: unit.starts for name, unit in cluster.units.items()} }")
    faults = [f"{first} ran at the same time" for first in together]
    if sorted(seen) != sorted({job.label for job in wanted.jobs}) or written.keys() != set(seen):
        faults.append("not every job is one row")
    if statuses != {"passed": total - 2, "died": 1, "too large": 1} or exit_code(rows) != 5:
        faults.append(f"expected all but two to pass and exit 5, got {dict(statuses)} and exit {exit_code(rows)}")
    if begun["se-kill"] != 2:
        faults.append(f"the job that kills its worker was tried {begun['se-kill']} times, expected 2")
    return faults


def _overhead(cluster: LocalCluster, folder: Path) -> None:
    """Run jobs that do nothing, here and there, and print what one costs."""
    os.environ.pop(BEGUN)
    nothing = Plan(tuple(SweepJob(name, "sleep-0", fuse=False) for name in list(MECHANISMS.entries)[:90]))
    settings = Settings(folder=folder / "local", module=MODULE)

    def processor() -> float:
        own = psutil.Process()
        times = [one.cpu_times() for one in (own, *own.children(recursive=True))]
        return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))

    for name, engine in (("this machine", None), ("the cluster", Farm(cluster.connect()))):
        used, began = processor(), time.perf_counter()
        rows = sweep(nothing, replace(settings, folder=folder / name), engine=engine)
        wall = (time.perf_counter() - began) / len(rows) * 1000
        spent = (processor() - used) / len(rows) * 1000
        assert all(row.ok for row in rows), Counter(row.status for row in rows)
        print(f"a job that does nothing, on {name}: {wall:.0f} ms, {spent:.0f} CPU ms (load {os.getloadavg()[0]:.1f})")


if __name__ == "__main__":
    main()
