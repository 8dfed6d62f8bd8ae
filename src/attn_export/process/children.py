"""Start interpreters: every child process of ours that runs Python is started here, and nowhere else.

A child must find our package where this process found it, and nothing where the user happens to stand: Python puts the
current folder at the head of the path of ``-m`` and ``-c``, so that a ``numpy.py`` in a downloaded folder would run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).resolve().parents[2])
#: Without -P (new in 3.11) the first entry is the current folder; ``sys`` itself is built in. Ours comes behind the
#: standard library, which nothing that lies beside the package may hide, and before what is installed: the child must
#: find this very package, also where another copy of it is installed.
_BOOT = (
    "import sys\n"
    "if not getattr(sys.flags, 'safe_path', False): del sys.path[0]\n"
    "root, module, *words = sys.argv[1:]\n"
    "at = [n for n, path in enumerate(sys.path) if path.endswith('-packages')] or [len(sys.path)]\n"
    "if root not in sys.path[:at[0] + 1]: sys.path.insert(at[0], root)\n"
    "from attn_export.process import children\n"
    "children.die_with_parent()\n"
    "import runpy\n"
    "sys.argv = [module, *words]\n"
    "runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
)


def command(module: str, *words: str, python: Path | None = None) -> list[str]:
    """Give the command line that runs ``module`` as ``python -m`` would, without the current folder on the path.

    ``python`` is another interpreter of this version, whose environment has other packages; None for this one.
    """
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    return [str(python or sys.executable), *safe, "-c", _BOOT, _ROOT, module, *words]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give this process's environment for a child: of PYTHONPATH only what does not depend on the current folder."""
    kept = {**os.environ, **(more or {})}
    paths = [path for path in kept.pop("PYTHONPATH", "").split(os.pathsep) if Path(path).is_absolute()]
    return {**kept, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


def start(
    module: str, *words: str, env: Mapping[str, str] | None = None, python: Path | None = None, **rest: Any
) -> subprocess.Popen[Any]:
    """Start ``module`` in an interpreter that dies with this process; ``rest`` as for ``subprocess.Popen``."""
    return subprocess.Popen(command(module, *words, python=python), env=environment(env), **rest)


def run(
    module: str, *words: str, env: Mapping[str, str] | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``module`` to its end and keep what it printed.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and was killed.
    """
    with start(
        module, *words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            out, err = child.communicate(timeout=timeout)
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


def ending(code: int, said: str = "") -> str:
    r"""How a child ended, for an error message: its last line, or the signal that killed it.

    >>> ending(-11)
    'it died by SIGSEGV'
    >>> ending(1, "Traceback\nValueError: no\n")
    'ValueError: no'
    """
    if code < 0:
        hint = ", often for want of memory" if code == -signal.SIGKILL else ""
        return f"it died by {name_of(-code)}{hint}"
    lines = said.strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"


def name_of(number: int) -> str:
    """Name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:  # one that Python has no name for
        return f"signal {number}"


def die_with_parent() -> None:
    """Ask Linux to kill this process with its parent, so that a killed run leaves no worker behind."""
    _prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose own parent dies, so that they can be found and ended."""
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _prctl(what: int, value: int) -> None:
    try:
        ctypes.CDLL(None).prctl(what, value)
    except (OSError, AttributeError):  # not Linux: a child may outlive a killed parent
        return
