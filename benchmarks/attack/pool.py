"""Workers that run attempts: each a fork of this process, watched, and replaced when it dies or hangs."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attn_export.process import activity, children
from attn_export.process.activity import Board
from benchmarks.attack.attempt import AttemptOutcome, Generator
from benchmarks.attack.box import Box
from benchmarks.attack.inside import MAKING, Inside
from benchmarks.attack.outside import Outside

#: An attempt in a fresh worker: what leaks in one attempt must not become the fault of a later one.
LIFE = 400


@dataclass(frozen=True)
class Task:
    """One attempt, and how to run it."""

    kind: str
    seed: int
    mode: str


@dataclass
class _Worker:
    process: int
    orders: int
    answers: int
    board: Board
    task: Task | None = None
    began: float = 0.0
    done: int = 0
    text: bytes = b""


@dataclass
class Pool:
    """Runs tasks on ``size`` workers.

    Attributes:
        generators: by kind.
        originals: the folder of honest inputs.
        limit: seconds that an attempt in process may take.
        size: how many workers.
        cli_limit: seconds that an attempt through the command line may take.
    """

    generators: Mapping[str, Generator]
    originals: Path
    limit: float = 10.0
    size: int = 2
    cli_limit: float = 40.0
    _workers: list[_Worker] = field(default_factory=list)

    def run(self, tasks: Iterable[Task]) -> Iterator[AttemptOutcome]:
        """Outcomes in the order in which they end."""
        queue = deque(tasks)
        with tempfile.TemporaryDirectory(prefix="attack-") as folder:
            self._folder = Path(folder)
            try:
                while queue or any(worker.task for worker in self._workers):
                    self._hand_out(queue)
                    yield from self._gather()
            finally:
                for worker in self._workers:
                    self._end(worker)
                self._workers.clear()

    def _hand_out(self, queue: deque[Task]) -> None:
        while len(self._workers) < min(self.size, len(queue)):
            self._workers.append(self._hire(len(self._workers)))
        for place, old in enumerate(list(self._workers)):
            if old.task is None and queue:
                worker = old
                if old.done >= LIFE:
                    self._end(old)
                    del self._workers[place]  # the new one must not close descriptors by the numbers of the old
                    worker = self._hire(place)
                    self._workers.insert(place, worker)
                worker.task = queue.popleft()
                worker.began = time.monotonic()
                worker.board.write(activity.Activity())
                os.write(worker.orders, f"{worker.task.mode} {worker.task.kind} {worker.task.seed}\n".encode())

    def _gather(self) -> Iterator[AttemptOutcome]:
        busy = [worker for worker in self._workers if worker.task]
        ready, _, _ = select.select([worker.answers for worker in busy], [], [], 0.2)
        for worker in busy:
            assert worker.task
            if worker.answers in ready:
                if block := os.read(worker.answers, 1 << 20):
                    worker.text += block
                    if worker.text.endswith(b"\n"):
                        yield AttemptOutcome.loads(worker.text.decode())
                        worker.text, worker.task, worker.done = b"", None, worker.done + 1
                else:
                    yield self._lost(worker, "death")
            elif time.monotonic() - worker.began > (2 * self.cli_limit if worker.task.mode == "cli" else self.limit):
                yield self._lost(worker, "hang")

    def _lost(self, worker: _Worker, flaw: str) -> AttemptOutcome:
        """Say what there is to say of an attempt whose worker is gone; another is hired."""
        assert worker.task
        task, last = worker.task, (worker.board.read() or (activity.Activity(), 0.0))[0]
        place = self._workers.index(worker)
        del self._workers[place]
        status = self._end(worker)
        if status in (98, 99) or last.doing == MAKING:
            raise RuntimeError(f"the bench itself broke on {task} ({children.ending(status)})")
        how = children.ending(status) if flaw == "death" else "it was stopped"
        self._workers.insert(place, self._hire(place))
        text = f"{how} while {last.doing}{f' in {last.who}' if last.who else ''}"
        attempt = describe(self.generators[task.kind], task.kind, task.seed, self.originals)
        seconds = round(time.monotonic() - worker.began, 3)
        return AttemptOutcome(task.kind, task.seed, task.mode, (flaw,), None, text, "", attempt[0], attempt[1], seconds)

    def _end(self, worker: _Worker) -> int:
        for end in (worker.orders, worker.answers):
            os.close(end)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.process, signal.SIGKILL)
        _, status = os.waitpid(worker.process, 0)
        return os.waitstatus_to_exitcode(status)

    def _hire(self, place: int) -> _Worker:
        board = Board()
        orders_out, orders_in = os.pipe()
        answers_out, answers_in = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process:
            os.close(orders_out)
            os.close(answers_in)
            return _Worker(process, orders_in, answers_out, board)
        try:
            children.die_with_parent()
            for other in self._workers:
                for end in (other.orders, other.answers):
                    with contextlib.suppress(OSError):
                        os.close(end)
            os.close(orders_in)
            os.close(answers_out)
            activity.attach(board)
            self._serve(place, orders_out, answers_in)
        except BaseException:
            import traceback

            os.write(answers_in, b"")
            with open("/proc/self/fd/2", "w", encoding="utf-8") as said, contextlib.suppress(OSError):  # noqa: PTH123
                traceback.print_exc(file=said)
        finally:
            os._exit(99)

    def _serve(self, place: int, orders: int, answers: int) -> None:
        """Be a worker, for ever."""
        box = Box(self._folder / str(place))
        shutil.rmtree(box.root, ignore_errors=True)
        box.enter()
        real = os.dup(2)
        inside: Inside | None = None
        outside = Outside(box, self.originals, self.cli_limit)
        with os.fdopen(orders, encoding="utf-8") as lines:
            for line in lines:
                mode, kind, seed = line.split()
                try:
                    if mode == "in":
                        inside = inside or Inside(box, self.originals)
                        outcome = inside.run(kind, int(seed), self.generators[kind])
                    else:
                        outcome = outside.run(kind, int(seed), self.generators[kind])
                except Exception:  # a fault of the bench itself: told, and no outcome of the product
                    import traceback

                    os.write(real, f"the bench broke on {kind} {seed}:\n{traceback.format_exc()}\n".encode())
                    os._exit(98)
                os.write(answers, outcome.dumps().encode() + b"\n")


def describe(make: Generator, kind: str, seed: int, originals: Path) -> tuple[str, tuple[str, ...]]:
    """Say what an attempt is, by making it again."""
    from random import Random

    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        here = Path.cwd()
        try:
            os.chdir(folder)
            attempt = make(Path(folder), originals, Random(f"{kind} {seed}"))  # noqa: S311
        finally:
            os.chdir(here)
        return attempt.what, attempt.words
