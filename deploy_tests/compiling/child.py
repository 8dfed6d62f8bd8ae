"""Run a compiler in a process of its own: a crash, a hang or 10 GB of memory end there and not in the caller.

The folder is the conversation: ``request.json`` and ``feeds.npz`` go in; ``result.json`` comes out with either
``{"ok": true, …}`` or a refusal, beside whatever files the compiler wrote; ``said`` holds what it printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.errors import BackendError
from attn_export.process import activity, children
from attn_export.types import Feeds, JsonDict

REQUEST, FEEDS, RESULT, SAID = "request.json", "feeds.npz", "result.json", "said"
#: Seconds that a build may take unless a backend says otherwise.
LIMIT = 600.0
#: Seconds between two signs of life to the parent.
HEARTBEAT = 1.0
#: Letters of what a compiler printed that an error repeats.
_LONGEST = 300


@dataclass(frozen=True)
class Job:
    """One build.

    Attributes:
        worker: the module that does it: ``work(main)`` is all that it calls.
        who: which compiler, for sentences.
        model: the file that is compiled.
        request: what the worker needs to know, as plain data.
        python: the interpreter that has the compiler; None for this one.
        limit: seconds that it may take.
        env: environment variables that it needs.
    """

    worker: str
    who: str
    model: Path
    request: JsonDict
    python: Path | None = None
    limit: float = LIMIT
    env: Mapping[str, str] | None = None


def run(job: Job, folder: Path, feeds: Sequence[Feeds] = ()) -> JsonDict:
    """Do the job in ``folder`` and give its result.

    Raises:
        RefusedError: the compiler said no.
        BackendError: it took longer than the limit, or its process died.
    """
    (folder / REQUEST).write_text(json.dumps(job.request), encoding="utf-8")
    save(folder / FEEDS, feeds)
    with (folder / SAID).open("wb") as said:
        process = children.start(
            job.worker,
            str(folder),
            python=job.python,
            env=job.env,
            stdin=subprocess.DEVNULL,
            stdout=said.fileno(),
            stderr=said.fileno(),
            start_new_session=True,
            cwd=folder,
        )
        try:
            _wait(process, job)
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return _outcome(job, folder, process.returncode)


def _wait(process: subprocess.Popen[Any], job: Job) -> None:
    start = time.monotonic()
    while True:
        activity.alive()  # it has a limit of its own
        try:
            process.wait(timeout=max(0.0, min(HEARTBEAT, job.limit - (time.monotonic() - start))))
            return
        except subprocess.TimeoutExpired:
            if time.monotonic() - start >= job.limit:
                raise BackendError(
                    f"{job.who} did not build {job.model} within {job.limit:g} s and was stopped"
                ) from None


def _outcome(job: Job, folder: Path, code: int) -> JsonDict:
    try:
        result: JsonDict = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        how = f"was killed by {children.name_of(-code)}" if code < 0 else f"ended with code {code}"
        hint = "; that is often want of memory" if code == -signal.SIGKILL else ""
        raise BackendError(
            f"the process in which {job.who} built {job.model} {how}{hint}; its last words: {last_words(folder)}"
        ) from None
    if not result["ok"]:
        complaints = [Complaint(**complaint) for complaint in result["complaints"]]
        raise RefusedError(result["what"], result["stage"], complaints, result["hint"])
    return result


def said(folder: Path) -> str:
    """Read what the compiler printed."""
    return (folder / SAID).read_text(encoding="utf-8", errors="replace")


def last_words(folder: Path) -> str:
    """Give the end of what the compiler printed, on one line."""
    lines = [line.strip() for line in said(folder).splitlines() if line.strip()]
    return "; ".join(lines[-2:])[-_LONGEST:] or "nothing"


def save(path: Path, rows: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Write rows of named arrays, so that ``load`` reads them in their order."""
    # Names come from models: they are numbered, as one could hold a slash.
    found = {f"{row}.{i}": array for row, named in enumerate(rows) for i, array in enumerate(named.values())}
    np.savez(path, **found)  # type: ignore[arg-type]  # the stub reads ** as the keyword allow_pickle
    names = json.dumps([list(named) for named in rows])
    path.with_suffix(".json").write_text(names, encoding="utf-8")


def load(path: Path) -> list[dict[str, NDArray[Any]]]:
    """Read what ``save`` wrote."""
    names = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(path, allow_pickle=False) as arrays:
        return [{name: arrays[f"{row}.{i}"] for i, name in enumerate(named_row)} for row, named_row in enumerate(names)]


def work(folder: Path, build: Callable[[Path, JsonDict], JsonDict]) -> None:
    """Do a worker's part: build what ``folder`` asks for, and leave the result or the refusal there."""
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    start = time.monotonic()
    try:
        result = {"ok": True, **build(folder, request), "seconds": time.monotonic() - start}
    except RefusedError as refusal:
        result = {"ok": False, **refusal.to_dict()}
    partial = folder / (RESULT + ".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.rename(folder / RESULT)
