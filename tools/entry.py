"""Where the program begins: a parent that watches, a child that works, and an exit code that means one thing each.

The parent imports next to nothing, so that watching costs a millisecond; the command line is loaded in the child.
Until the current folder is off the import path, only what the interpreter has loaded already may be imported here.
"""

from __future__ import annotations

import gc
import os
import sys

#: When the collector looks for circles: PyTorch, the exporter and its graphs are millions of objects that stay, and
#: looking through them as often as Python does unasked is a tenth of the main job.
COLLECTED = (100_000, 20, 10)


def main() -> None:
    """Run the command line under a parent, and end with its exit code."""
    _fill_closed_streams()
    _leave_the_current_folder()
    from attn_export.process.supervisor import supervise

    sys.exit(supervise(_work, _say))


def _fill_closed_streams() -> None:
    """Open nothing at all in place of a standard stream that is closed: no file of ours may take its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:  # the lowest free number
        pass
    os.close(number)


def _leave_the_current_folder() -> None:
    """Take the current folder off the import path: a ``numpy.py`` that lies in it is none that anyone asked for.

    ``python -m attn_export`` puts it first there, and so does an empty entry of PYTHONPATH. It stays where PYTHONPATH
    names it in full, and, last, where it is from there that we were imported.
    """
    try:
        here = os.getcwd()  # noqa: PTH109  # pathlib may not have been imported yet
    except OSError:  # it was removed under us
        here = ""
    if here in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        return
    package = sys.modules["attn_export"].__path__[0]
    kept = [path for path in sys.path if path not in ("", here)]
    sys.path[:] = [*kept, here] if os.path.dirname(os.path.abspath(package)) == here else kept  # noqa: PTH100, PTH120


def _work() -> None:
    gc.set_threshold(*COLLECTED)
    from attn_export.tools import ending

    ending.run(_command_line)


def _command_line() -> object:
    from attn_export.tools import shortcut

    if shortcut.answered():
        return 0
    from attn_export.tools import cli

    return cli.start()


def _say(text: str, code: int) -> None:
    from attn_export.tools import ending

    ending.failed(text, code)
