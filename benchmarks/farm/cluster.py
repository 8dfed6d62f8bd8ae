"""A scheduler and two workers with TLS, each a process that is started again when it ends, as systemd would do it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from attn_export.pipeline.sweep.dask_cluster import DaskCluster, Tls
from attn_export.process import children

WORKERS = ("a", "b")
#: Bytes that a worker may hold, as its command line has it.
MEMORY = 1_200_000_000
#: Seconds after which what has ended is started again.
REST = 1.0


@dataclass
class Unit:
    """One process that is kept running.

    Attributes:
        words: its command line.
        log: where its words go.
        pid: of its latest start.
        starts: how often it was started.
    """

    words: list[str]
    log: Path
    pid: int = 0
    starts: int = 0


@dataclass
class LocalCluster:
    """What runs on this machine."""

    folder: Path
    port: int
    units: dict[str, Unit] = field(default_factory=dict)
    ended: bool = False

    @property
    def address(self) -> str:
        """Where the scheduler listens."""
        return f"tls://127.0.0.1:{self.port}"

    @property
    def tls(self) -> Tls:
        """The files of the client, which are those of all here."""
        return Tls(ca=self.folder / "ca.pem", cert=self.folder / "farm.pem", key=self.folder / "farm.key")

    def connect(self) -> DaskCluster:
        """Connect, once all workers are there."""
        cluster = DaskCluster(self.address, self.tls)
        until = time.monotonic() + 60
        while len(cluster.machines()) < len(self.units) - 1:
            if time.monotonic() > until:
                raise TimeoutError(f"the workers did not come; see {self.folder}")
            time.sleep(0.2)
        return cluster

    def kill_scheduler(self) -> None:
        """Kill it with SIGKILL."""
        os.kill(self.units["scheduler"].pid, signal.SIGKILL)

    def kill_worker(self, name: str) -> None:
        """Kill the process that runs jobs, below its nanny, with SIGKILL."""
        for child in psutil.Process(self.units[name].pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()

    def _keep(self, unit: Unit, environment: dict[str, str]) -> None:
        while not self.ended:
            with unit.log.open("a") as log:
                process = subprocess.Popen(unit.words, stdout=log, stderr=log, env=environment, start_new_session=True)
            unit.pid, unit.starts = process.pid, unit.starts + 1
            while process.poll() is None and not self.ended:
                time.sleep(0.1)
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(REST)


@contextlib.contextmanager
def running(folder: Path, memory: int = MEMORY, names: Sequence[str] = WORKERS) -> Iterator[LocalCluster]:
    """Run a cluster for the block; its certificates, logs and attempts lie in ``folder``."""
    certificates(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        cluster = LocalCluster(folder, probe.getsockname()[1])
    tls = ["--tls-ca-file", "ca.pem", "--tls-cert", "farm.pem", "--tls-key", "farm.key"]
    tls = [str(folder / word) if "." in word else word for word in tls]
    start = [sys.executable, "-m"]
    scheduler = ["distributed.cli.dask_scheduler", "--host", "tls://127.0.0.1", "--port", str(cluster.port)]
    cluster.units["scheduler"] = Unit([*start, *scheduler, "--no-dashboard", *tls], folder / "scheduler.log")
    for name in names:
        offers = f"cpu=1,device:rack-{name}=1"
        worker = ["distributed.cli.dask_worker", cluster.address, "--name", name, "--nthreads", "1", "--no-dashboard"]
        worker += ["--memory-limit", str(memory), "--local-directory", str(folder / name), "--resources", offers]
        cluster.units[name] = Unit([*start, *worker, *tls], folder / f"{name}.log")
    own = {
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        "ATTN_EXPORT_FARM_DIR": str(folder / "attempts"),
        "OMP_NUM_THREADS": "1",
    }
    threads = [
        threading.Thread(target=cluster._keep, args=(unit, children.environment(own)))
        for unit in cluster.units.values()
    ]
    for thread in threads:
        thread.start()
    try:
        yield cluster
    finally:
        cluster.ended = True
        for thread in threads:
            thread.join()


def certificates(folder: Path) -> None:
    """Make a certificate authority and one certificate, as docs/farm.md does."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "365"]
    for words in (
        ["req", "-x509", *curve, "-days", "365", "-subj", "/CN=farm ca", "-keyout", "ca.key", "-out", "ca.pem"],
        ["req", *curve, "-subj", "/CN=farm", "-keyout", "farm.key", "-out", "farm.csr"],
        ["x509", "-req", "-in", "farm.csr", *signed, "-out", "farm.pem"],
    ):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
