"""Where the program begins: a parent that watches, a child that works, and an exit code that means one thing each.

The parent imports next to nothing, so that watching costs a millisecond; the command line is loaded in the child.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from attn_export.process import supervisor


def main() -> None:
    """Run the command line under a parent, and end with its exit code."""
    _fill_closed_streams()
    _leave_the_current_folder()
    sys.exit(supervisor.supervise(_work, _say))


def _fill_closed_streams() -> None:
    """Open nothing at all in place of a standard stream that is closed: no file of ours may take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def _leave_the_current_folder() -> None:
    """Take the current folder off the import path: a ``numpy.py`` that lies in it is none that anyone asked for.

    ``python -m attn_export`` puts it first there. It stays, last, where it is from there that we were imported.
    """
    try:
        here = str(Path.cwd())
    except OSError:  # it was removed under us
        here = ""
    own = str(Path(supervisor.__file__).resolve().parents[2])
    kept = [path for path in sys.path if path not in ("", here)]
    sys.path[:] = [*kept, own] if own == here else kept


def _work() -> None:
    from attn_export.tools import ending

    ending.run()


def _say(text: str, code: int) -> None:
    from attn_export.tools import ending

    ending.failed(text, code)
