"""An interpreter that takes jobs as lines of JSON: a job that takes too long or too much ends it, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from attn_export.process import children

#: The module that answers.
WORKER = "attn_export.pipeline.sweep.worker"
#: Seconds between two looks at the memory of a job.
_LOOK = 0.25
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Answer(NamedTuple):
    """What became of a job: its status, a sentence, and its result."""

    status: str
    message: str
    result: dict[str, Any] | None = None


class Child:
    """One interpreter, which is started anew after a job that it did not survive.

    Args:
        module: what answers; another one in tests alone.
    """

    def __init__(self, module: str = WORKER) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._busy = threading.Lock()
        self.ended = False

    def ask(self, job: Mapping[str, Any], limit: float, memory: int = 0) -> Answer:
        """Run a job of at most ``limit`` seconds and ``memory`` bytes (0: no limit); whatever happens is an answer."""
        with self._busy:
            return self._asked(job, limit, memory)

    def _asked(self, job: Mapping[str, Any], limit: float, memory: int) -> Answer:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        began = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        while not select.select([process.stdout], [], [], _LOOK)[0]:
            if time.monotonic() - began > limit:
                self._kill()
                return Answer("too slow", f"stopped after {limit:.0f} s")
            if memory and (held := _resident(process.pid)) > memory:
                self._kill()
                return Answer(
                    "too large", f"stopped at {held / 1e9:.2f} GB of memory, of which it may hold {memory / 1e9:.2f}"
                )
        if line := process.stdout.readline():
            return Answer(*json.loads(line))
        ending = children.ending(process.wait())
        self._kill()
        return Answer("died", ending)

    def end(self) -> None:
        """Kill it for good, whatever it does."""
        self.ended = True
        if self._busy.acquire(blocking=False):
            self._kill()
            self._busy.release()
        elif process := self._process:  # whoever waits for its answer sees that it is dead
            process.kill()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = children.start(
                self._module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            if self.ended:  # meanwhile, by another thread
                self._process.kill()
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _resident(process: int) -> int:
    """Bytes that a process holds in memory."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
