"""What is being done right now, written where the parent can read it when this process is dead.

A runtime that dies by a signal takes its last words with it. So every step that hands work to code that is not ours
says so first, on a page of memory that it shares with the parent (``supervisor``). Without a parent nothing is noted.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

_HEAD = struct.Struct("<Qd")
_SIZE = 1 << 16


@dataclass(frozen=True)
class Activity:
    """One step, and what holds for the whole run.

    Attributes:
        doing: in words that follow "while", such as ``running case 'b=3'``.
        who: whose code it is, such as ``ONNX Runtime``; empty for ours.
        model: the file it works on; empty where there is none.
        written: what this run has put in place for good.
        partial: folders that are nothing until the run ends well.
        timeout: seconds that one step may take; 0 for no limit.
        memory: bytes that this process and its children may hold; 0 for the parent's default.
        ended: the exit code with which our own code ends the run; None while it does not.
    """

    doing: str = "starting"
    who: str = ""
    model: str = ""
    written: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    timeout: float = 600.0
    memory: int = 0
    ended: int | None = None


class Board:
    """The shared page: one process writes, its parent reads."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _SIZE)
        self.write(Activity())

    def write(self, activity: Activity) -> None:
        """Put the activity there, with the time."""
        text = json.dumps(asdict(activity)).encode()[: _SIZE - _HEAD.size]
        self._page[: _HEAD.size] = _HEAD.pack(0, 0.0)  # a reader in between finds nothing rather than a half
        self._page[_HEAD.size : _HEAD.size + len(text)] = text
        self._page[: _HEAD.size] = _HEAD.pack(len(text), time.monotonic())

    def touch(self) -> None:
        """Say that the step goes on."""
        self._page[8:16] = struct.pack("<d", time.monotonic())

    def read(self) -> tuple[Activity, float] | None:
        """Give the activity, and the time of its last sign of life; None in the middle of a change."""
        length, since = _HEAD.unpack(self._page[: _HEAD.size])
        try:
            values = json.loads(self._page[_HEAD.size : _HEAD.size + length])
        except ValueError:
            return None
        values |= {"written": tuple(values["written"]), "partial": tuple(values["partial"])}
        return Activity(**values), since


class _Own:
    """What this process has: its board, if a parent gave it one, and what it is doing."""

    board: Board | None = None
    now = Activity()


def attach(board: Board) -> None:
    """Write to ``board`` from now on: what a child does after the fork."""
    _Own.board, _Own.now = board, Activity()


def now() -> Activity:
    """Say what this process is doing."""
    return _Own.now


def _put(activity: Activity) -> None:
    _Own.now = activity
    if _Own.board is not None:
        _Own.board.write(activity)


@contextlib.contextmanager
def doing(what: str, *, who: str | None = None, model: Path | str | None = None) -> Iterator[None]:
    """Note a step while the block runs; afterwards what was being done before is noted again.

    Whose code it is and on which file it works are those of the step around it, unless they are given.
    """
    before = _Own.now
    who = before.who if who is None else who
    _put(replace(before, doing=what, who=who, model=before.model if model is None else str(model)))
    try:
        yield
    finally:
        _put(replace(_Own.now, doing=before.doing, who=before.who, model=before.model))


def alive() -> None:
    """Say that the step goes on: one that is meant to be long has no time limit while it says so."""
    if _Own.board is not None:
        _Own.board.touch()


def limits(*, timeout: float | None = None, memory: int | None = None) -> None:
    """Set what the parent allows: seconds for one step, bytes for the run."""
    _put(
        replace(
            _Own.now,
            timeout=_Own.now.timeout if timeout is None else timeout,
            memory=_Own.now.memory if memory is None else memory,
        )
    )


def ending(code: int) -> None:
    """Note that it is our own code that ends the run: a library may call ``exit`` with a code that means a verdict."""
    _put(replace(_Own.now, ended=code))


def wrote(path: Path) -> None:
    """Note that ``path`` is in place: from now on an interrupted run has written something."""
    _put(replace(_Own.now, written=(*_Own.now.written, str(path))))


@contextlib.contextmanager
def partial(folder: Path) -> Iterator[None]:
    """Note a folder that is to be removed should this process die in the block."""
    _put(replace(_Own.now, partial=(*_Own.now.partial, str(folder))))
    try:
        yield
    finally:
        _put(replace(_Own.now, partial=tuple(path for path in _Own.now.partial if path != str(folder))))
