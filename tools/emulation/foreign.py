"""Run programs that are not ours, such as apt-get: with a time limit, and what they said last as the reason."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attn_export.errors import BackendMissingError
from attn_export.process import activity, children

#: Seconds between two signs of life to our own parent.
LOOK = 2.0
#: Seconds that one program may take: a download over a slow line.
MOST = 1800.0


@contextmanager
def ended(child: subprocess.Popen[Any]) -> Iterator[None]:
    """See to it that a child is gone behind the block; told to stop, it has some seconds to clean up."""
    try:
        yield
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(LOOK)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def run(
    *words: str,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float = MOST,
    done: Sequence[int] = (0,),
) -> str:
    """Run a program to its end and return what it printed; ``what`` it does follows "could not".

    Raises:
        BackendMissingError: it is not installed, ended otherwise than by a code in ``done``, or took too long.
    """
    began = time.monotonic()
    settings = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        child = subprocess.Popen(
            words, cwd=cwd, env=settings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise BackendMissingError(f"could not {what}: {words[0]}: {error.strerror}") from error
    with activity.doing(f"waiting for {words[0]}"), child, ended(child):
        while True:
            try:
                out, err = child.communicate(timeout=LOOK)
                break
            except subprocess.TimeoutExpired:
                activity.alive()
                if time.monotonic() - began > seconds:
                    raise BackendMissingError(f"could not {what}: {words[0]} took longer than {seconds:g} s") from None
    if child.returncode not in done:
        raise BackendMissingError(f"could not {what}: {children.ending(child.returncode, err)[:500]}")
    return out
