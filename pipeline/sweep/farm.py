"""The engine for a cluster: orders go out while there is room for them, and each one comes back, whatever happens.

What a cluster does not promise is kept here, and none of it needs a cluster to be tested:

a result is lost with its worker, or with the scheduler     the order goes out again, a few times
a worker dies of its job                                    ``died``: the cluster itself has tried it once more
nobody offers any more what an order needs                  ``died`` after a while, and not a wait for ever
the scheduler does not come back                            every order that is left is ``died``

No more goes out than there is room for: whatever waits at a worker that dies is held to have killed it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from attn_export.errors import LoadError
from attn_export.pipeline.sweep.engine import CPU, Done, Machine
from attn_export.pipeline.sweep.order import Order
from attn_export.pipeline.sweep.rows import SweepRow
from attn_export.process import activity
from attn_export.untrusted import fields

#: How often an order goes out whose result was lost by no fault of its own.
TRIES = 3
#: Seconds for which the scheduler, or what a job needs, may be gone.
PATIENCE = 120.0
#: Seconds between two looks at who is there.
_LOOK = 5.0


class GoneError(Exception):
    """The scheduler cannot be reached."""


class Lost(NamedTuple):
    """The result is gone, or will never come; the job itself is not to blame."""

    why: str


class Broken(NamedTuple):
    """The job could not be run to an answer."""

    status: str
    why: str


class Answered(NamedTuple):
    """What the worker sent: a row as plain data, and files."""

    row: Mapping[str, Any]
    files: Mapping[str, bytes]


Outcome = Lost | Broken | Answered


class Cluster(Protocol):
    """What carries orders to workers and brings back what became of them."""

    def machines(self) -> Sequence[Machine]:
        """Ask which workers there are.

        Raises:
            GoneError: there is nobody to ask.
        """
        ...

    def present(self) -> Sequence[Machine]:
        """Ask what workers offer, and nothing that costs them anything.

        Raises:
            GoneError: as ``machines``.
        """
        ...

    def send(self, tag: str, order: Order) -> None:
        """Send an order out under a name of its own.

        Raises:
            GoneError: there is nobody to send it to.
        """
        ...

    def settled(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Wait for what ends next, for at most ``timeout`` seconds.

        Raises:
            GoneError: the connection is lost, and with it everything that is out.
        """
        ...

    def cancel(self, tag: str) -> None:
        """Forget an order."""
        ...

    def reconnect(self, patience: float) -> None:
        """Find the scheduler again.

        Raises:
            GoneError: it has not come back in that many seconds.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


#: What an order needs, as a key.
_Need = frozenset[tuple[str, float]]


@dataclass
class _Out:
    """An order, how often it has gone out, and under which name the last time."""

    order: Order
    tries: int = 1
    tag: str = ""


class Farm:
    """Runs jobs on a cluster.

    Args:
        cluster: what carries them.
        patience: seconds for which the scheduler, or what a job needs, may be gone.
        clock: tells the time, in seconds.
    """

    def __init__(
        self, cluster: Cluster, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster, self._patience, self._clock = cluster, patience, clock
        self._waiting: dict[_Need, deque[_Out]] = {}
        self._unmet: dict[_Need, float] = {}
        self._out: dict[str, _Out] = {}
        self._machines: Sequence[Machine] = ()
        self._looked = -_LOOK
        self._sent = 0

    def machines(self) -> Sequence[Machine]:
        """Ask who takes jobs.

        Raises:
            LoadError: there is nobody to ask.
        """
        try:
            self._machines = self._cluster.machines()
        except GoneError as error:
            raise LoadError(str(error)) from error
        return self._machines

    def look(self) -> None:
        """See who is there now."""
        self._looked = self._clock()
        self._machines = self._cluster.present()

    def submit(self, order: Order) -> None:
        """Take an order."""
        self._wait(_Out(order))

    def as_completed(self) -> Iterator[Done]:
        """Yield every order once."""
        while self._out or any(self._waiting.values()):
            activity.alive()  # each job has a limit of its own
            try:
                yield from self._hopeless()
                self._send()
                settled = self._cluster.settled(1.0)
            except GoneError as error:
                yield from self._gone(error)
                continue
            for tag, outcome in settled:
                if (out := self._out.pop(tag, None)) is not None:
                    yield from self._ended(out, outcome)

    def close(self) -> None:
        """Let go of the cluster."""
        self._cluster.close()

    def _wait(self, out: _Out, *, first: bool = False) -> None:
        queue = self._waiting.setdefault(_need(out), deque())
        queue.appendleft(out) if first else queue.append(out)

    def _send(self) -> None:
        """Send out what there is room for: of those that need the same, in order."""
        free = self._free()
        for need, queue in self._waiting.items():
            # A measurement waits at its worker until that has nothing else to do, not here until nobody has.
            counted = dict(need) if len(need) == 1 else {name: amount for name, amount in need if name != CPU}
            while queue and all(free.get(name, 0) >= amount for name, amount in counted.items()):
                out = queue[0]
                self._sent += 1
                out.tag = f"{out.order.job.label}-{out.order.key[:8]}-{self._sent}"
                self._cluster.send(out.tag, out.order)
                self._out[out.tag] = queue.popleft()
                for name, amount in counted.items():
                    free[name] -= amount
        self._waiting = {need: queue for need, queue in self._waiting.items() if queue}

    def _free(self) -> dict[str, float]:
        """Say how much of what is offered is not taken by what is out; of ``cpu``, by builds."""
        free: dict[str, float] = {}
        for machine in self._machines:
            for name, amount in machine.offers.items():
                free[name] = free.get(name, 0) + amount
        for out in self._out.values():
            for name, amount in out.order.needs.items():
                if name != CPU or len(out.order.needs) == 1:
                    free[name] = free.get(name, 0) - amount
        return free

    def _hopeless(self) -> Iterator[Done]:
        """Look from time to time who is there; give up what nobody could do for too long."""
        if (now := self._clock()) - self._looked < _LOOK:
            return
        self.look()
        wanted = {*self._waiting, *map(_need, self._out.values())}
        unmet = {need for need in wanted if not any(machine.meets(dict(need)) for machine in self._machines)}
        self._unmet = {need: self._unmet.get(need, now) for need in unmet}
        for need in (need for need, since in self._unmet.items() if now - since > self._patience):
            sent = [out for out in self._out.values() if _need(out) == need]
            for out in sent:
                self._cluster.cancel(out.tag)
                del self._out[out.tag]
            why = f"for {self._patience:.0f} s no worker has offered {' with '.join(sorted(dict(need), reverse=True))}"
            for out in (*sent, *self._waiting.pop(need, ())):
                yield _died(out.order, why)

    def _ended(self, out: _Out, outcome: Outcome) -> Iterator[Done]:
        """Give the row of what has ended; what was lost goes out again."""
        if isinstance(outcome, Answered):
            try:
                row = fields.build(SweepRow, outcome.row)
            except ValueError as error:
                yield _died(out.order, f"a worker answered with no row: {error}")
            else:
                yield Done(out.order, row, outcome.files)
        elif isinstance(outcome, Broken):
            yield Done(out.order, out.order.row(outcome.status, outcome.why))
        elif out.tries >= TRIES:
            yield _died(out.order, f"its result was lost {out.tries} times: {outcome.why}")
        else:
            self._wait(_Out(out.order, out.tries + 1), first=True)

    def _gone(self, error: GoneError) -> Iterator[Done]:
        """Wait for the scheduler, and send everything again that was out; or give up."""
        for out in reversed(self._out.values()):
            yield from self._ended(out, Lost(str(error)))
        self._out.clear()
        try:
            self._cluster.reconnect(self._patience)
        except GoneError as last:
            left, self._waiting = self._waiting, {}
            for queue in left.values():
                for out in queue:
                    yield _died(out.order, str(last))
        self._looked = -_LOOK


def _need(out: _Out) -> _Need:
    return frozenset(out.order.needs.items())


def _died(order: Order, why: str) -> Done:
    return Done(order, order.row("died", why))
