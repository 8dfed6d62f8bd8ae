"""What a result depends on besides what is known beforehand: files, folders and variables that were read on the way.

As a compiler's cache remembers headers: they are noted at the first run, and looked at again before its result is used.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attn_export.untrusted import files

#: Instead of a hash: there was nothing at this path.
ABSENT = ""
#: How the names in a folder count: all of them, or those that Python could import.
ALL, IMPORTABLE = "all", "importable"
#: Seconds by which a file system's clock may be behind.
_GRAIN = 0.02
#: Names of a folder.
_MOST = 100_000
_SUFFIXES = tuple(importlib.machinery.all_suffixes())


@dataclass(frozen=True)
class Needs:
    """What must be as it was.

    Attributes:
        files: sha256 of each, by its path; ``ABSENT`` where there was none.
        folders: a hash of the names in each, by its path, after what kind of names count.
        variables: a hash of the value of each variable of the environment.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    def changed(self) -> str:
        """Name the first that is not as it was; empty where all are."""
        for name, digest in self.variables.items():
            if variable(name) != digest:
                return f"the variable {name}"
        for path, (kind, digest) in self.folders.items():
            if names(Path(path), kind) != digest:
                return path
        return next((path for path, digest in self.files.items() if content(Path(path)) != digest), "")

    def to_dict(self) -> dict[str, Any]:
        """Give the same as plain data, in one order."""
        return {kind: dict(sorted(found.items())) for kind, found in asdict(self).items()}


def read(plain: Mapping[str, Any]) -> Needs:
    """Make it from plain data again."""
    folders = {path: (kind, digest) for path, (kind, digest) in plain["folders"].items()}
    return Needs(dict(plain["files"]), folders, dict(plain["variables"]))


def key(known: Mapping[str, Any]) -> str:
    """Give the hash of plain data, by which something is found again."""
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def content(path: Path) -> str:
    """Give the sha256 of a file; ``ABSENT`` where there is none that can be read."""
    try:
        return files.sha256(path) if path.is_file() else ABSENT
    except OSError:
        return ABSENT


def names(folder: Path, kind: str) -> str:
    """Give a hash of the names in a folder; ``ABSENT`` where it cannot be read.

    Of what Python could import: files of code, and folders that hold such files themselves.
    """
    try:
        with os.scandir(folder) as scanned:
            found = [entry for entry, _ in zip(scanned, range(_MOST), strict=False)]
    except OSError:
        return ABSENT
    kept = [entry.name for entry in found if kind == ALL or _importable(entry)]
    return hashlib.sha256("\0".join(sorted(kept)).encode("utf-8", "surrogateescape")).hexdigest()


def _importable(entry: os.DirEntry[str]) -> bool:
    if entry.name.endswith(_SUFFIXES):
        return True
    try:
        if not entry.name.isidentifier() or entry.name == "__pycache__" or not entry.is_dir():
            return False
        with os.scandir(entry.path) as inner:
            return any(one.name.endswith(_SUFFIXES) for one in inner)
    except OSError:
        return False


def variable(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """Give a hash of a variable's value, which may be a secret; ``ABSENT`` where it is not set."""
    value = environment.get(name)
    return ABSENT if value is None else hashlib.sha256(f"{name}={value}".encode("utf-8", "surrogateescape")).hexdigest()


def late(paths: Iterable[Path], began: float) -> str:
    """Name the first of some files that was written or replaced since ``began``; empty where none was.

    What was read is then not surely what is hashed now. A file's time of change cannot be set back by whoever edits it.
    """
    return next((str(path) for path in paths if path.exists() and path.stat().st_ctime > began - _GRAIN), "")
