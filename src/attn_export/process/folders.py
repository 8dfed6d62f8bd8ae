"""Folders that belong to a living process: a lock says whose they are, and what a dead run left is swept.

The lock is the kernel's (``flock`` on the folder itself): it ends with the process that holds it, however that ends,
and it is seen from other containers that share the file system, where a process number means nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX, _SUFFIX = "attn-export-", "-run"
#: A younger folder without a lock may be one that its owner has just made; in seconds.
_YOUNG = 60.0


def claim(folder: Path) -> int | None:
    """Lock a folder: a descriptor to keep open while it is ours, or None where another process holds it.

    Raises:
        OSError: it is no folder, or cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks: nobody can hold one
        return descriptor
    return descriptor


def claim_within(folder: Path, seconds: float) -> int | None:
    """Lock a folder as ``claim`` does, and wait for whoever holds it; None where it is still held after ``seconds``.

    Raises:
        OSError: as ``claim``.
    """
    until = time.monotonic() + seconds
    while (descriptor := claim(folder)) is None and time.monotonic() < until:
        time.sleep(0.01)
    return descriptor


def abandoned(folder: Path) -> bool:
    """Whether the process that made a folder is gone: nobody holds its lock. Without locks nobody can tell, so no."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # BlockingIOError is one: it lives
        return False
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def of_this_run() -> Iterator[Path | None]:
    """Send every temporary file of this process and its children to one folder, removed at the end of the block.

    Folders that killed runs of this user left are removed first. None where no temporary folder can be made.
    """
    before = os.environ.get("TMPDIR")
    try:
        root = Path(tempfile.gettempdir())
        sweep(root)
        folder = Path(tempfile.mkdtemp(_SUFFIX, f"{_PREFIX}{os.getpid()}-", root))
        lock = claim(folder)
    except OSError:
        yield None
        return
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = None
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def is_of_this_run(path: str) -> bool:
    """Whether a path lies in the folder of this run's temporary files, where it has one."""
    folder = Path(tempfile.tempdir or os.sep)
    own = folder.name.startswith(_PREFIX) and folder.name.endswith(_SUFFIX)
    return own and path.startswith(f"{folder}{os.sep}")


def sweep(root: Path) -> None:
    """Remove what killed runs of this user left in ``root``."""
    for folder in root.glob(f"{_PREFIX}*{_SUFFIX}"):
        try:
            found = folder.lstat()
        except OSError:
            continue
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            continue
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        young = time.time() - found.st_mtime < _YOUNG and Path("/proc", number).exists()
        if not young and abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def crash() -> Path:
    """Make a folder that outlives the run, for a log or a model that broke something: only the user removes it.

    Raises:
        OSError: there is no place for it.
    """
    root = Path(tempfile.gettempdir())
    if root.name.startswith(_PREFIX) and root.name.endswith(_SUFFIX):
        root = root.parent
    return Path(tempfile.mkdtemp("", f"{_PREFIX}crash-", root))
