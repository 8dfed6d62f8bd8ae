"""What a job costs the scheduler, the one who asks and the table, by number of jobs and workers; and what follows.

    python -m benchmarks.farm.scale [--page]      needs attn-export[farm]

A real scheduler with TLS; workers without nannies, 25 to a process, whose jobs sleep for as long as is said and run
nothing. Orders go out through the engine of ``sweep``. ``--page`` writes the tables of ``docs/scale.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from attn_export.pipeline.sweep import order as orders
from attn_export.pipeline.sweep.dask_cluster import DaskCluster, Tls
from attn_export.pipeline.sweep.farm import Farm
from attn_export.pipeline.sweep.job import BenchSettings, MeasureJob
from attn_export.pipeline.sweep.order import Order
from attn_export.pipeline.sweep.rows import SweepRow, Table
from attn_export.process import children
from benchmarks.farm.cluster import certificates

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
#: Workers in one process.
CROWD = 25
#: Jobs, workers, and milliseconds that each job sleeps.
RUNS = ((200, 10, 0), (800, 10, 0), (200, 40, 0), (200, 100, 0), (800, 100, 0), (300, 100, 8000))
#: On a farm each worker samples itself on a machine of its own; here a hundred would take the time of what is measured.
QUIET = {
    "OMP_NUM_THREADS": "1",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "10s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__GIL__ENABLED": "False",
}
#: Rows of a table, and bytes of a bundle.
ROWS, SIZES = (1_000, 5_000, 20_000), (20_000, 1_000_000, 17_000_000)


@dataclass(frozen=True)
class Cost:
    """What one run took: seconds by the clock; of the processor, by the scheduler and by who asked."""

    jobs: int
    workers: int
    sleep: float
    wall: float
    scheduler: float
    asked: float
    peak: float
    load: float


async def nap(plain: Mapping[str, Any], content: Mapping[str, bytes]) -> dict[str, Any]:
    """Answer as a worker does, after the time that the job's label tells."""
    order = orders.read(plain)
    assert isinstance(order.job, MeasureJob)
    await asyncio.sleep(order.job.bench.duration)
    return {
        "row": asdict(order.row("passed", "", result=RESULT)),
        "files": {"report.json": b"x" * SMALL, **dict(content)},
    }


#: Bytes that a measurement sends back besides its row, and a result as it stands in a row.
SMALL = 30_000
RESULT = {"environment": {"libraries": {f"library {n}": "1.0.0" for n in range(8)}}, "wall_ms": {"p50": 1.0}}


def workers(address: str, folder: str, first: str, count: str) -> None:
    """Run some workers in this process, each with a device of its own."""
    from distributed import Worker
    from distributed.security import Security

    own = Path(folder)
    pem, key = str(own / "farm.pem"), str(own / "farm.key")
    tls = Security(tls_ca_file=str(own / "ca.pem"), tls_worker_cert=pem, tls_worker_key=key, require_encryption=True)

    async def serve() -> None:
        names = range(int(first), int(first) + int(count))
        offers = [{"cpu": 1, f"device:{n}": 1} for n in names]
        there = [
            Worker(address, name=str(n), nthreads=1, resources=o, security=tls, memory_limit=0, dashboard=False)
            for n, o in zip(names, offers, strict=True)
        ]
        await asyncio.gather(*there)
        await asyncio.gather(*(worker.finished() for worker in there))

    asyncio.run(serve())


@contextmanager
def cluster(folder: Path, count: int) -> Iterator[tuple[DaskCluster, psutil.Process]]:
    """Run a scheduler and ``count`` workers for the block."""
    environment = children.environment(QUIET)
    tls = ["--tls-ca-file", "ca.pem", "--tls-cert", "farm.pem", "--tls-key", "farm.key"]
    tls = [str(folder / word) if "." in word else word for word in tls]
    address_file = folder / "scheduler.json"
    address_file.unlink(missing_ok=True)
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "tls://127.0.0.1", "--port", "0"]
    start += ["--no-dashboard", "--scheduler-file", str(address_file), *tls]
    processes = []
    try:
        with (folder / "scale.log").open("a") as log:
            processes.append(subprocess.Popen(start, env=environment, stdout=log, stderr=log))
            while not address_file.exists() or not address_file.read_text():
                time.sleep(0.1)
            address = json.loads(address_file.read_text())["address"]
            for first in range(0, count, CROWD):
                code = "import sys; from benchmarks.farm.scale import workers; workers(*sys.argv[1:])"
                words = [sys.executable, "-c", code, address, str(folder), str(first), str(min(CROWD, count - first))]
                processes.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
        own = Tls(ca=folder / "ca.pem", cert=folder / "farm.pem", key=folder / "farm.key")
        connected = DaskCluster(address, own, task=nap)
        while len(connected.present()) < count:
            time.sleep(0.2)
        yield connected, psutil.Process(processes[0].pid)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def run(connected: DaskCluster, scheduler: psutil.Process, jobs: int, count: int, sleep: float) -> Cost:
    """Run jobs that sleep, each on the next device, and say what it took."""
    engine = Farm(connected)
    engine.look()
    bench = BenchSettings(duration=sleep / 1000)
    for number in range(jobs):
        job = MeasureJob(f"b{number}", "nothing", str(number % count), "ssh://device", bench)
        engine.submit(Order(job=job, key=f"{number:08d}", needs={f"device:{number % count}": 1}))
    load, used, own, began = os.getloadavg()[0], _used(scheduler), time.process_time(), time.perf_counter()
    ended = sum(done.row.ok for done in engine.as_completed())
    wall = time.perf_counter() - began
    assert ended == jobs, f"{ended} of {jobs}"
    peak = scheduler.memory_info().rss / 1e6
    return Cost(jobs, count, sleep, wall, _used(scheduler) - used, time.process_time() - own, peak, load)


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def carried(connected: DaskCluster, folder: Path) -> list[tuple[int, float]]:
    """Say how long an order with a bundle takes there and back, by the bundle's bytes; the least of five."""
    found = []
    for size in SIZES:
        bundle = folder / f"bundle-{size}"
        bundle.mkdir()
        (bundle / "model.onnx").write_bytes(os.urandom(size))
        times = []
        for number in range(5):
            engine = Farm(connected)
            engine.look()
            job = MeasureJob(f"b{size}-{number}", "nothing", "0", "ssh://device", BenchSettings(duration=0))
            engine.submit(Order(job=job, key=f"{size:08d}", needs={"device:0": 1}, bundle=bundle))
            began = time.perf_counter()
            assert all(done.row.ok for done in engine.as_completed())
            times.append(time.perf_counter() - began)
        found.append((size, min(times)))
    return found


def tables(folder: Path) -> list[tuple[int, float, float, float]]:
    """Say what a table of so many rows takes to write and to read (CPU seconds), and its bytes."""
    found = []
    for count in ROWS:
        place = folder / str(count)
        place.mkdir()
        table = Table(place)
        result = {**RESULT, "preflight": ["load is 3.1 on 2 usable cores"], "digest": "sha256:" + "0" * 64}
        for number in range(count):
            row = SweepRow(f"entry-{number}@onnxruntime@device-7", "passed", "parity holds " * 8, 8.1, "0" * 64, result)
            table.rows[row.label] = row
        began = time.process_time()
        table.save()
        wrote = time.process_time() - began
        began = time.process_time()
        assert len(Table(place).rows) == count
        found.append((count, (place / "sweep.json").stat().st_size / 1e6, wrote, time.process_time() - began))
    return found


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the tables of docs/scale.md")
    page = parser.parse_args().page
    parts: dict[str, Sequence[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificates(folder)
        costs: list[Cost] = []
        bytes_there: list[tuple[int, float]] = []
        for count in sorted({workers for _, workers, _ in RUNS}):
            with cluster(folder, count) as (connected, scheduler):
                for jobs, wanted, sleep in RUNS:
                    if wanted == count:
                        costs.append(run(connected, scheduler, jobs, count, sleep))
                        print(costs[-1], flush=True)
                bytes_there = bytes_there or carried(connected, folder)
                connected.close()
        print(bytes_there)
        parts["scheduler"] = [
            f"| {c.jobs} | {c.workers} | {c.sleep / 1000:g} | {c.wall:.1f} | {c.jobs / c.wall:.0f} |"
            f" {c.jobs / c.workers * c.sleep / 1000 / c.wall:.0%} | {c.scheduler / c.jobs * 1000:.2f} |"
            f" {c.asked / c.jobs * 1000:.2f} | {c.peak:.0f} | {c.load:.1f} |"
            for c in costs
        ]
        parts["network"] = [f"| {size / 1e6:g} | {seconds * 1000:.0f} |" for size, seconds in bytes_there]
        parts["table"] = [f"| {n} | {mb:.1f} | {wrote:.2f} | {read:.2f} |" for n, mb, wrote, read in tables(folder)]
    for name, lines in parts.items():
        print(name, *lines, sep="\n")
        if page:
            text = PAGE.read_text(encoding="utf-8")
            old = re.search(rf"(<!-- {name} -->\n(?:\|.*\n){{2}})((?:\|.*\n)*)", text)
            assert old, f"{PAGE} has no table {name}"
            PAGE.write_text(text.replace(old[0], old[1] + "".join(f"{line}\n" for line in lines)), encoding="utf-8")


if __name__ == "__main__":
    main()
