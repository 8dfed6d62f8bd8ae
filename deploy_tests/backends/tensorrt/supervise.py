"""Run a build in a process of its own, with a time limit and a heartbeat."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attn_export.deploy_tests.backends.tensorrt.request import Request
from attn_export.deploy_tests.backends.tensorrt.worker import ENGINE, LOG, REQUEST, RESULT
from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.errors import BackendError
from attn_export.process import activity, children

#: A large network takes an hour to build on a small Jetson.
LIMIT = 3600.0
HEARTBEAT = 10.0
WORKER = "attn_export.deploy_tests.backends.tensorrt.worker"
SPOKEN = ("WARNING", "ERROR", "INTERNAL_ERROR")

journal = logging.getLogger("attn_export.tensorrt")


@dataclass(frozen=True)
class Built:
    """An engine as it came from the builder.

    Attributes:
        plan: the serialised engine.
        version: version of the product that built it.
        seconds: time the build took.
        log: severity and message, in order.
    """

    plan: bytes
    version: str
    seconds: float
    log: tuple[tuple[str, str], ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the log warns of, each message once."""
        return tuple(dict.fromkeys(message for severity, message in self.log if severity == "WARNING"))


def build(request: Request, *, limit: float = LIMIT, heartbeat: float = HEARTBEAT) -> Built:
    """Build in a subprocess; every ``heartbeat`` seconds the log says how far it is.

    Raises:
        RefusedError: the parser, the profile or the builder said no.
        BackendError: the build took longer than ``limit`` seconds, or its process died.
    """
    with tempfile.TemporaryDirectory(prefix="attn-export-build-") as temporary:
        folder = Path(temporary)
        (folder / REQUEST).write_text(request.dumps(), encoding="utf-8")
        with (folder / "stderr").open("wb") as spill, _process(folder, spill.fileno()) as process:
            _wait(process, request, folder, limit, heartbeat)
        return _outcome(request, folder, process.returncode)


@contextlib.contextmanager
def _process(folder: Path, spill: int) -> Iterator[subprocess.Popen[bytes]]:
    process = children.start(
        WORKER, str(folder), stdin=subprocess.DEVNULL, stdout=spill, stderr=spill, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], request: Request, folder: Path, limit: float, heartbeat: float) -> None:
    start = time.monotonic()
    while True:
        activity.alive()  # it has a limit of its own
        spent = time.monotonic() - start
        try:
            process.wait(timeout=max(0.0, min(heartbeat, limit - spent)))
            return
        except subprocess.TimeoutExpired:
            spent = time.monotonic() - start
        last = _last_line(folder)
        if spent >= limit:
            raise BackendError(
                f"{request.maker.title} did not build {request.model} within {limit:g} s and was stopped;"
                f" it was last at: {last or 'nothing was logged'}"
            )
        journal.info("%s builds %s for %.0f s: %s", request.maker.title, request.model.name, spent, last)


def _last_line(folder: Path) -> str:
    log = _log(folder)
    return log[-1][1].splitlines()[0][:120] if log and log[-1][1] else ""


def _log(folder: Path) -> list[tuple[str, str]]:
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / LOG).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed process may be cut
                severity, message = json.loads(line)
                lines.append((severity, message))
    return lines


def _outcome(request: Request, folder: Path, code: int) -> Built:
    log = _log(folder)
    for severity, message in log:
        if severity in SPOKEN:
            journal.debug("%s: %s", severity, message)
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _death(request, folder, code, log) from None
    if not result["ok"]:
        complaints = [Complaint(**c) for c in result["complaints"]]
        raise RefusedError(result["what"], result["stage"], complaints, result["hint"])
    return Built((folder / ENGINE).read_bytes(), result["version"], result["seconds"], tuple(log))


def _death(request: Request, folder: Path, code: int, log: list[tuple[str, str]]) -> BackendError:
    how = f"was killed by {children.name_of(-code)}" if code < 0 else f"ended with code {code}"
    hint = "; that is often want of memory" if code == -signal.SIGKILL else ""
    spill = (folder / "stderr").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = "; ".join(spill[-2:]) or (log[-1][1].strip() if log else "") or "nothing"
    return BackendError(
        f"the process in which {request.maker.title} built {request.model} {how}{hint}; its last words: {last}"
    )
