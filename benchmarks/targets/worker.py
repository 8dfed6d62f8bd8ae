"""A process that tries one entry after the other, and is replaced when one takes too long or takes it along."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from typing import Any

from attn_export.errors import AttnExportError
from attn_export.process import children
from benchmarks.targets.row import STOPPED, Row

_CONTEXT = multiprocessing.get_context("spawn")


class Worker:
    """Runs ``attempt(target, entry, preset)`` in an interpreter that is kept for the next entry.

    Args:
        attempt: a function at the top of a module.
        limit: seconds for one entry.
    """

    def __init__(self, attempt: Callable[[str, str, str], Row], limit: float) -> None:
        self.attempt, self.limit = attempt, limit
        self.process: multiprocessing.process.BaseProcess | None = None
        self.pipe: Connection | None = None

    def row(self, target: str, entry: str, preset: str) -> Row:
        """Try one entry; a crash and a limit that is passed are rows, too.

        Raises:
            AttnExportError: it cannot be tried here.
        """
        pipe = self._started()
        pipe.send((target, entry, preset))
        if not pipe.poll(self.limit):
            self.end()
            load = f"at a load of {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
            return _stopped(target, entry, preset, f"{STOPPED} {self.limit:.0f} s {load}", self.limit)
        try:
            answer = pipe.recv()
        except EOFError:
            assert self.process is not None
            self.process.join()
            why = children.ending(self.process.exitcode or 0)
            self.end()
            return _stopped(target, entry, preset, f"the process of the converter or the runtime ended: {why}")
        if isinstance(answer, Exception):
            raise answer
        return Row(**answer)

    def end(self) -> None:
        """Kill the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process = self.pipe = None

    def _started(self) -> Connection:
        if self.pipe is None:
            self.pipe, theirs = _CONTEXT.Pipe()
            self.process = _CONTEXT.Process(target=_serve, args=(theirs, self.attempt), daemon=True)
            self.process.start()
            theirs.close()
        return self.pipe


def _serve(pipe: Connection, attempt: Callable[[str, str, str], Row]) -> None:
    children.die_with_parent()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer: dict[str, Any] | AttnExportError = asdict(attempt(*job))
        except AttnExportError as error:
            answer = error
        pipe.send(answer)


def _stopped(target: str, entry: str, preset: str, reason: str, seconds: float | None = None) -> Row:
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return Row(target, entry, preset, reason=reason, date=today, seconds=seconds)
