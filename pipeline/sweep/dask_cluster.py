"""Dask distributed as the cluster: it finds workers, counts what they offer, and carries bytes. No more is asked of it.

Orders and answers travel as plain data and bytes; no path is shared, and no object of ours is unpickled here.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_export.errors import LoadError, UsageError
from attn_export.pipeline.sweep.attempt import attempt, pack
from attn_export.pipeline.sweep.engine import Machine
from attn_export.pipeline.sweep.farm import Answered, Broken, GoneError, Lost, Outcome
from attn_export.pipeline.sweep.order import Order

#: Seconds for one question to the scheduler or to a worker.
_ASK = 30.0
#: Results that are brought here at the same time.
_FETCHERS = 8
#: Share of what a worker may hold that is left to its jobs.
_FOR_JOBS = 0.9


#: Takes an order as plain data and the files of a bundle, and answers as ``attempt`` does.
Task = Callable[[dict[str, Any], dict[str, bytes]], Any]


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files in PEM for a connection that both sides prove; where none is given, Dask's own configuration says."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class DaskCluster:
    """A scheduler and its workers.

    Args:
        address: such as ``tls://host:8786``.
        tls: who we are, and whom we believe.
        task: what runs an order on a worker; another one where only the cluster is measured.

    Raises:
        UsageError: only some of the three files are given.
        LoadError: a file is missing, or the scheduler cannot be reached.
    """

    def __init__(self, address: str, tls: Tls, task: Task | None = None) -> None:
        self._address, self._security, self._task = address, _security(tls), task or _task
        self._futures: dict[str, Any] = {}
        self._ended: queue.Queue[tuple[str, Outcome]] = queue.Queue()
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "fetch")
        try:
            self._client = self._connected(_ASK)
        except (OSError, TimeoutError) as error:
            raise LoadError(f"cannot reach the scheduler {address}: {_words(error)}") from error

    def warnings(self) -> list[str]:
        """Say what of the scheduler's settings is not as jobs need it."""
        found = self._client.run_on_scheduler(lambda dask_scheduler: int(dask_scheduler.allowed_failures))
        if found <= 1:
            return []
        setting = "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=1"
        return [f"the scheduler tries a job that kills its worker {found + 1} times; start it with {setting}"]

    def machines(self) -> list[Machine]:
        """Ask which workers there are, and what each computes with."""
        workers = self._workers()
        try:
            known = self._client.run(_facts, on_error="return", workers=list(workers)) if workers else {}
        except (OSError, TimeoutError) as error:
            raise GoneError(_words(error)) from error
        return [_machine(address, one, known.get(address)) for address, one in workers.items()]

    def present(self) -> list[Machine]:
        """Ask the scheduler what its workers offer."""
        return [Machine(_name(where, one), one.get("resources", {})) for where, one in self._workers().items()]

    def send(self, tag: str, order: Order) -> None:
        """Send an order, with the bundle that it measures."""
        self._alive()
        content = pack(order.bundle) if order.bundle is not None else {}
        try:
            future = self._client.submit(
                self._task, order.plain(), content, key=tag, resources=dict(order.needs), retries=0, pure=False
            )
        except OSError as error:
            raise GoneError(_words(error)) from error
        self._futures[tag] = future
        future.add_done_callback(lambda ended: self._fetch(tag, ended))

    def settled(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Wait for what ends next."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._ended.get(timeout=timeout))
            while True:
                found.append(self._ended.get_nowait())
        if not found:
            self._alive()
        return [(tag, outcome) for tag, outcome in found if self._futures.pop(tag, None) is not None]

    def cancel(self, tag: str) -> None:
        """Forget an order."""
        if (future := self._futures.pop(tag, None)) is not None:
            future.cancel()

    def reconnect(self, patience: float) -> None:
        """Find the scheduler again: a new connection to the same address."""
        self._futures.clear()
        self._close()
        until = time.monotonic() + patience
        while True:
            try:
                self._client = self._connected(max(1.0, until - time.monotonic()))
            except (OSError, TimeoutError) as error:  # noqa: PERF203  # nothing here is about speed
                if time.monotonic() > until:
                    why = f"the scheduler {self._address} has not come back in {patience:.0f} s: {_words(error)}"
                    raise GoneError(why) from error
                time.sleep(1.0)
            else:
                return

    def close(self) -> None:
        """Take back what is out, and let go."""
        for tag in list(self._futures):
            self.cancel(tag)
        self._close()
        self._fetchers.shutdown(wait=False, cancel_futures=True)

    def _connected(self, timeout: float) -> Any:
        import dask.config
        from distributed import Client

        # A bundle travels with its order, and that is meant.
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})
        for name in (
            "distributed",
            *(f"distributed.{part}" for part in ("client", "batched", "comm", "core", "utils")),
        ):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they would say is in the rows
        return Client(self._address, security=self._security, timeout=timeout, set_as_default=False)

    def _close(self) -> None:
        try:
            self._client.close(timeout=5)
        except (OSError, TimeoutError):
            return

    def _alive(self) -> None:
        if self._client.status != "running":
            raise GoneError(f"the connection to the scheduler {self._address} is lost")

    def _workers(self) -> dict[str, Any]:
        self._alive()
        try:
            return dict(self._client.scheduler_info()["workers"])
        except (OSError, TimeoutError) as error:
            raise GoneError(_words(error)) from error

    def _fetch(self, tag: str, future: Any) -> None:
        """Bring a result here beside others: one takes several words between client, scheduler and worker."""
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._fetchers.submit(lambda: self._ended.put((tag, self._outcome(future))))

    def _outcome(self, future: Any) -> Outcome:
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        if future.status in ("cancelled", "lost"):
            return Lost("the scheduler or a worker is gone")
        try:
            found = future.result(timeout=_ASK)
        except KilledWorker as error:
            worker = getattr(error.last_worker, "address", "")
            return Broken("died", f"{error.allowed_failures + 1} workers died while they ran it, the last was {worker}")
        except (FutureCancelledError, OSError, TimeoutError) as error:
            return Lost(_words(error))
        except Exception as error:  # whatever a task of ours or its transport raises
            return Broken("died", f"the worker could not run it: {type(error).__name__}: {_words(error)}")
        return Answered(found["row"], found["files"])


def _security(tls: Tls) -> Any:
    from distributed.security import Security

    given = {"--tls-ca": tls.ca, "--tls-cert": tls.cert, "--tls-key": tls.key}
    if not any(given.values()):
        return None
    if lacking := [name for name, file in given.items() if file is None]:
        raise UsageError(f"expected --tls-ca, --tls-cert and --tls-key together; {' and '.join(lacking)} is missing")
    for file in given.values():
        if file is not None and not file.is_file():
            raise LoadError(f"there is no file {file}")
    own, key = str(tls.cert), str(tls.key)
    return Security(tls_ca_file=str(tls.ca), tls_client_cert=own, tls_client_key=key, require_encryption=True)


def _name(address: str, offered: Mapping[str, Any]) -> str:
    name = str(offered.get("name") or address)
    return address if name == address else f"{name} at {address}"


def _machine(address: str, offered: Mapping[str, Any], facts: Any) -> Machine:
    shown = _name(address, offered)
    if not isinstance(facts, dict):
        fault = f"{type(facts).__name__}: {_words(facts)}" if isinstance(facts, BaseException) else "it says nothing"
        return Machine(shown, offered.get("resources", {}), fault=fault)
    return Machine(shown, offered.get("resources", {}), facts["versions"], facts["identity"])


def _facts() -> dict[str, Any]:
    """Say what a worker computes with; run there."""
    from attn_export.pipeline.sweep import versions

    return {"versions": versions.here(), "identity": versions.identity()}


def _task(plain: dict[str, Any], content: dict[str, bytes]) -> dict[str, Any]:
    """Run an order; run there, within what the worker may hold."""
    from distributed import get_worker

    worker = get_worker()
    limit = worker.memory_manager.memory_limit or 0
    return attempt(plain, content, int(limit * _FOR_JOBS / worker.state.nthreads))


def _words(error: object) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
