"""Look at a file before it is read: what kind it is, and how large."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from attn_export.errors import AttnExportError, LoadError

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30


def regular(path: Path, most: int, error: type[AttnExportError] = LoadError) -> int:
    """Size of a regular file in bytes; devices, pipes, sockets and folders are refused before they are opened.

    Raises:
        error: it is not there, is no regular file, or is larger than ``most`` bytes.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise error(f"there is no file {path}") from reason
    except (OSError, ValueError) as reason:  # a name with a NUL byte is a ValueError
        raise error(f"{path} cannot be read: {_why(reason)}") from reason
    if not stat.S_ISREG(found.st_mode):
        raise error(f"expected a file at {path}, got {_kind(found.st_mode)}")
    if found.st_size > most:
        raise error(f"{path} has {_size(found.st_size)}; at most {_size(most)} are read here")
    return found.st_size


def read(path: Path, most: int, error: type[AttnExportError] = LoadError) -> bytes:
    """Read a regular file of at most ``most`` bytes.

    Raises:
        error: as ``regular``, or it cannot be read.
    """
    regular(path, most, error)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)  # it may grow while it is read
    except OSError as reason:
        raise error(f"{path} cannot be read: {_why(reason)}") from reason
    if len(content) > most:
        raise error(f"{path} grew beyond {_size(most)} while it was read")
    return content


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(MB):
            digest.update(block)
    return digest.hexdigest()


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what lies at a path, by which one place is told from another; None where nothing does."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def inside(folder: Path, name: str, error: type[AttnExportError] = LoadError) -> Path:
    """Give the file ``name`` of a folder, which must lie in it: no absolute path, no ``..``, no link that leads out.

    Raises:
        error: it lies elsewhere, or is not a file name.
    """
    place = folder / name
    try:
        real, root = Path(os.path.realpath(place)), Path(os.path.realpath(folder))
    except (OSError, ValueError) as reason:
        raise error(f"{folder}: {name!r} is not a file name") from reason
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or not real.is_relative_to(root):
        raise error(f"{folder}: {name!r} lies outside the folder")
    return place


def _why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _size(count: int) -> str:
    """Give a number of bytes for people.

    >>> _size(3 << 20)
    '3 MB'
    """
    for unit, name in ((GB, "GB"), (MB, "MB"), (KB, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"
