"""The engine that needs nothing else: workers of this process, each with an interpreter that it keeps.

Importing the exporter costs more than exporting a small entry. A job that takes too long, or takes its interpreter with
it, is a failure of that job.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from attn_export.pipeline.sweep import versions
from attn_export.pipeline.sweep.child import WORKER, Child
from attn_export.pipeline.sweep.engine import CPU, Done, Machine, token
from attn_export.pipeline.sweep.job import HERE
from attn_export.pipeline.sweep.order import Order
from attn_export.pipeline.sweep.work import work
from attn_export.process import activity


class Local:
    """Runs jobs on this machine.

    Args:
        folder: where bundles and logs go.
        workers: how many jobs run side by side; a measurement runs alone all the same.
        devices: what this machine reaches by ssh.
        module: what runs builds; another one in tests alone.
    """

    def __init__(self, folder: Path, workers: int, devices: Sequence[str] = (), module: str = WORKER) -> None:
        self._folder, self._workers, self._devices, self._module = folder, workers, devices, module
        self._orders: queue.Queue[Order] = queue.Queue()
        self._done: queue.Queue[Done | BaseException] = queue.Queue()
        self._children: list[Child] = []
        self._left = 0

    def machines(self) -> list[Machine]:
        """Give this machine."""
        devices = {token(name): 1.0 for name in (HERE, *self._devices)}
        return [Machine("this machine", {CPU: self._workers, **devices}, versions.here(), versions.identity())]

    def submit(self, order: Order) -> None:
        """Take an order; a worker is started for it while there are fewer than allowed."""
        self._orders.put(order)
        self._left += 1
        if len(self._children) < min(self._workers, self._left):
            child = Child(self._module)
            self._children.append(child)
            threading.Thread(target=self._serve, args=(child,), daemon=True).start()

    def as_completed(self) -> Iterator[Done]:
        """Yield every order as it ends."""
        while self._left:
            activity.alive()  # each job has a limit of its own
            try:
                done = self._done.get(timeout=1.0)
            except queue.Empty:
                continue
            if isinstance(done, BaseException):
                raise done
            self._left -= 1
            yield done

    def close(self) -> None:
        """Kill the interpreters."""
        for child in self._children:
            child.end()

    def _serve(self, child: Child) -> None:
        """Work off orders for as long as this process lives; what is no fault of a job ends the sweep."""
        while not child.ended:
            order = self._orders.get()
            try:
                self._done.put(Done(order, work(order, self._folder, child, order.bundle)))
            except BaseException as error:  # told to the one who waits
                self._done.put(error)
                return
