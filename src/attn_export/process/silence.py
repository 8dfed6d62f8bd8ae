"""Keep what foreign code prints off our streams, compiled code included, and have it at hand for an error message."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import IO


@contextmanager
def silenced() -> Iterator[Callable[[], str]]:
    """Hold back both standard streams while the block runs; what comes is a function that gives what was said so far.

    Handlers that the block gives to Python's root logger are taken off again, and warnings are dropped.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with tempfile.TemporaryFile() as kept, ExitStack() as stack:
        stack.callback(_restore, root, handlers, level)
        stream = stack.enter_context(io.TextIOWrapper(_Same(kept.fileno(), "ab"), "utf-8", "backslashreplace"))
        for descriptor in (1, 2):
            stack.enter_context(_diverted(descriptor, kept))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(stream))
        stack.enter_context(redirect_stderr(stream))

        def said() -> str:
            stream.flush()
            kept.seek(0)
            text = kept.read().decode("utf-8", "replace")
            kept.seek(0, os.SEEK_END)
            return text

        yield said


class _Same(io.BufferedWriter):
    """A writer of its own on a file that is open already, and stays open."""

    def __init__(self, descriptor: int, mode: str) -> None:
        super().__init__(io.FileIO(os.dup(descriptor), mode))


@contextmanager
def _diverted(descriptor: int, into: IO[bytes]) -> Iterator[None]:
    """Let ``descriptor`` stand for another file; one that is closed stays closed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    try:
        before = os.dup(descriptor)
    except OSError:
        yield
        return
    os.dup2(into.fileno(), descriptor)
    try:
        yield
    finally:
        os.dup2(before, descriptor)
        os.close(before)


def _restore(root: logging.Logger, handlers: list[logging.Handler], level: int) -> None:
    root.handlers[:] = handlers
    root.setLevel(level)
