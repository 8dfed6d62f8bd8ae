"""Code of the user's runs in this process, as he asked for: whatever it does to end it becomes one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attn_export.errors import AttnExportError, SubjectError
from attn_export.process.supervisor import StopError
from attn_export.untrusted.text import first_line


@contextmanager
def guest(what: str) -> Iterator[None]:
    """Run code of the user's in the block; ``what`` is the sentence that its exception ends.

    ``sys.exit()`` in it is no end of ours, and a class of exceptions of its own no crash. Only a person who
    interrupts, or a signal, goes through.

    Raises:
        SubjectError: it raised.
    """
    try:
        yield
    except (AttnExportError, KeyboardInterrupt, StopError):
        raise
    except BaseException as error:
        raise SubjectError(f"{what}: {type(error).__name__}: {first_line(error, 500)}") from error
