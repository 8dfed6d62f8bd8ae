"""The parent of a run: it does nothing but watch one child, which does everything.

A model, a plug-in, a simplifier or an exporter can abort, hang or eat all memory. It does so in the child; the parent
imports none of it, names what happened, removes what is half, and gives an exit code that no shell can mistake:

    the child's own     where it ends by itself
    3                   it died by a signal or by a library's ``exit``, took too long, or held too much memory
    130, 143, 129       interrupted, terminated, hung up; what it leaves is removed

Forking from a process that has imported next to nothing costs a millisecond or two.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attn_export.process import activity, children, folders
from attn_export.process.activity import Activity, Board

#: Seconds between two looks at the child's memory.
LOOK = 0.1
#: Seconds that a child has to clean up after it was told to stop.
GRACE = 5.0
#: The share of the memory that is free at the start which a run may hold, where the user names no limit.
SHARE = 0.9
#: Signals that stop a run; the exit code is 128 and the number, as shells have it.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
FAILED = 3


class StopError(BaseException):
    """A signal told this run to stop. No Exception: whoever catches all of those must not swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells have it."""
        return 128 + self.number


@dataclass(frozen=True)
class _Verdict:
    """Why the parent ended its child: a sentence, and the exit code."""

    text: str
    code: int


def supervise(work: Callable[[], None], say: Callable[[str, int], None]) -> int:
    """Run ``work`` in a child, and return the exit code of the run.

    ``work`` ends as a program does: by returning, or by SystemExit. ``say(sentence, code)`` tells the user how the
    child was ended; it is called in the parent, where the child could not say it itself.
    """
    if not hasattr(signal, "sigtimedwait"):  # not Linux: nothing watches
        work()
        return 0
    board = Board()
    watched = {signal.SIGCHLD, *STOPS}
    with folders.of_this_run() as scratch:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        children.adopt_orphans()
        child = os.fork()
        if not child:
            _be_child(work, board, before)
        try:
            code, verdict = _watch(child, board, watched)
            last, _ = board.read() or (Activity(), 0.0)
            _end_descendants()
            _remove(last.partial)
            if verdict is None and (code < 0 or last.ended is None):
                verdict = _Verdict(_death(last, code, _keep(last, scratch)), FAILED)
            if verdict is not None:
                say(verdict.text, verdict.code)
                return verdict.code
            return code
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_child(work: Callable[[], None], board: Board, mask: set[int]) -> None:
    """Do the work; never returns."""
    code = 70
    try:
        children.die_with_parent()
        _volunteer()
        activity.attach(board)
        for number in STOPS:
            signal.signal(number, _stop)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except StopError as end:
            code = end.exit_code
    finally:
        activity.ending(code)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):  # it is told already, and nothing may keep the child from ending
                stream.flush()
        os._exit(code)


class _Told:
    """The signal that told this process to stop; 0 while none did."""

    number = 0


def _stop(number: int, _frame: object) -> None:
    """Leave by an exception, once: a second signal must not break into the cleaning up after the first."""
    if not _Told.number:
        _Told.number = number
        raise StopError(number)


def stopped() -> int:
    """Give the signal that told this process to stop, whatever became of the exception that said so; 0 for none."""
    return _Told.number


def words(number: int) -> str:
    """Say what a signal does to a run."""
    return WORDS.get(signal.Signals(number), children.name_of(number))


def _volunteer() -> None:
    """Be the first that the kernel kills where memory runs out, before anything else of the user's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _watch(child: int, board: Board, watched: set[signal.Signals]) -> tuple[int, _Verdict | None]:
    """Wait for the child; end it where it takes too long or too much, or where the user says so."""
    free = _free_memory()
    verdict: _Verdict | None = None
    deadline = float("inf")
    while True:
        info = signal.sigtimedwait(watched, LOOK)
        if info is not None and info.si_signo in WORDS:
            number = signal.Signals(info.si_signo)
            if verdict is not None:  # told twice: at once
                os.kill(child, signal.SIGKILL)
            elif deadline == float("inf"):
                deadline = time.monotonic() + GRACE
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, number)
            verdict = _Verdict(WORDS[number], 128 + number)
        if (code := _ended(child)) is not None:
            if verdict is not None and code == verdict.code:
                return code, None  # it cleaned up and said so itself
            if verdict is not None and verdict.code > 128 and code >= 0:
                return code, None  # it had come to its end by itself
            last, _ = board.read() or (Activity(), 0.0)
            if verdict is not None and verdict.code > 128:
                verdict = _Verdict(f"{verdict.text}; {left(last)}", verdict.code)
            return code, verdict
        if verdict is None:
            verdict = _over(child, board, free)
            if verdict is not None:
                deadline = 0.0
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _ended(child: int) -> int | None:
    """Give the child's exit code, or minus the signal that killed it; None while it lives."""
    while True:
        number, status = os.waitpid(-1, os.WNOHANG)
        if number == 0:
            return None
        if number == child:
            return os.waitstatus_to_exitcode(status)


def _over(child: int, board: Board, free: int) -> _Verdict | None:
    """Say what limit the child is beyond, if any."""
    found = board.read()
    if found is None:
        return None
    now, since = found
    spent = time.monotonic() - since
    if now.timeout and spent > now.timeout:
        return _Verdict(
            f"{_who(now)} took longer than {now.timeout:g} s while {_doing(now)} and was stopped; {left(now)};"
            " allow more with --timeout SECONDS (0: no limit)",
            FAILED,
        )
    limit = now.memory or int(free * SHARE)
    if limit and (held := sum(map(_resident, (child, *_descendants(child))))) > limit:
        return _Verdict(
            f"{_who(now)} held {held / 1e9:.1f} GB of memory while {_doing(now)}, {limit / 1e9:.1f} GB are allowed,"
            f" and was stopped; {left(now)}; allow more with --memory-limit GB",
            FAILED,
        )
    return None


def _who(now: Activity) -> str:
    return now.who or "this run"


def _doing(now: Activity) -> str:
    return f"{now.doing} ({now.model})" if now.model else now.doing


def left(now: Activity) -> str:
    """Say what a run that was stopped has written."""
    return f"{', '.join(now.written)} is written" if now.written else "nothing was written"


def _death(last: Activity, code: int, kept: str) -> str:
    """Say what became of a child that did not end by our own code: minus a signal, or a library's call of ``exit``."""
    how = f"died by {children.name_of(-code)}" if code < 0 else f"ended the process by itself (exit code {code})"
    hint = "; that is often want of memory" if code in (-signal.SIGKILL, 1) else ""
    place = f"; the model is kept at {kept}" if kept else ""
    return f"{_who(last)} {how} while {last.doing}{hint}{place}; {left(last)}"


def _keep(last: Activity, scratch: Path | None) -> str:
    """Where the model that something died on can be found: moved out of what will be removed."""
    if not last.model or not Path(last.model).exists():
        return ""
    model = Path(last.model)
    temporary = [Path(path) for path in last.partial] + ([scratch] if scratch else [])
    if not any(model.is_relative_to(folder) for folder in temporary):
        return str(model)
    try:
        place = folders.crash()
        for file in model.parent.glob(f"{model.name}*"):  # with weights that lie beside it
            shutil.move(file, place / file.name)
    except OSError:
        return ""
    return str(place / model.name)


def _remove(partial: tuple[str, ...]) -> None:
    for path in partial:
        if path.endswith(".partial"):
            shutil.rmtree(path, ignore_errors=True)


def _descendants(process: int) -> Iterator[int]:
    """Every process below one, as the kernel lists them."""
    try:
        tasks = list(os.scandir(f"/proc/{process}/task"))
    except OSError:
        return
    for task in tasks:
        try:
            with open(f"{task.path}/children", encoding="ascii") as file:  # noqa: PTH123  # ten times a second
                found = [int(word) for word in file.read().split()]
        except OSError:
            continue
        for child in found:
            yield child
            yield from _descendants(child)


def _end_descendants() -> None:
    """Kill whatever the child started that still runs."""
    for _ in range(10):
        found = list(_descendants(os.getpid()))
        if not found:
            return
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def _resident(process: int) -> int:
    """Bytes of memory that a process holds of its own: what it shares with others, such as libraries, not counted."""
    try:
        with open(f"/proc/{process}/statm", encoding="ascii") as file:  # noqa: PTH123
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * _PAGE


def _free_memory() -> int:
    """Bytes that this machine, or the container around it, has left; 0 where nobody says."""
    free = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError, StopIteration):
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        free = min(free or most, max(1, most - used))
    return free
