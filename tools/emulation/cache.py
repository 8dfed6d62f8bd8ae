"""Folders that are kept between runs: named by what was asked for, whole or not there, and safe to delete."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from attn_export.cache.place import of_user
from attn_export.errors import WriteError
from attn_export.process import activity

#: Seconds that what nobody used is kept.
UNUSED = 60 * 86_400.0
#: Seconds after which what a killed run left half is nobody's.
HALF = 86_400.0
_PARTIAL = ".partial"


def root() -> Path:
    """Name the folder of all of them."""
    return of_user() / "emulation"


def place(kind: str, asked: Iterable[str]) -> Path:
    """Name the folder for what was asked for, whether it is there or not."""
    return root() / f"{kind}-{hashlib.sha256(chr(10).join(asked).encode()).hexdigest()[:16]}"


def kept(kind: str, asked: Iterable[str], fill: Callable[[Path], None]) -> Path:
    """Give the folder for what was asked for; where it is missing, ``fill`` an empty one, and put it in its place.

    Raises:
        WriteError: it cannot be written.
    """
    folder = place(kind, asked)
    if folder.is_dir():
        with contextlib.suppress(OSError):  # a cache that others fill for us may be read-only
            os.utime(folder)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _prune(folder.parent)
        partial = Path(tempfile.mkdtemp(_PARTIAL, f"{folder.name}.", folder.parent))
    except OSError as error:
        raise WriteError(f"cannot write {folder.parent}: {error.strerror}; set XDG_CACHE_HOME to a folder") from error
    try:
        with activity.partial(partial):
            fill(partial)
            with contextlib.suppress(OSError):  # another run was first, and its folder is the same
                partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not folder.is_dir():
        raise WriteError(f"cannot write {folder}; set XDG_CACHE_HOME to a folder that can be written")
    return folder


def _prune(parent: Path) -> None:
    """Remove what nobody used for long, and what killed runs left half."""
    now = time.time()
    for folder in parent.iterdir():
        age = HALF if folder.name.endswith(_PARTIAL) else UNUSED
        with contextlib.suppress(OSError):
            if now - folder.stat().st_mtime > age:
                shutil.rmtree(folder, ignore_errors=True)
