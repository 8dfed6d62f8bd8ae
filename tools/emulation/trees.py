"""Folders of packages for another machine, made here and kept: the runtime's wheels, and this very package."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import attn_export
from attn_export.pipeline.progress import Progress
from attn_export.tools.emulation import cache, wheels


def packages(
    wanted: Sequence[str], architecture: str, python: str, progress: Progress, *, glibc: int | None = None
) -> Path:
    """Give the folder of wheels for a machine; where it is missing, pip fills it.

    Args:
        wanted: for pip.
        architecture: as wheels name it.
        python: as 3.13.
        progress: is told of the download.
        glibc: the second number of the machine's version; as the emulated system has it unless given.

    Raises:
        BackendMissingError: they cannot be had.
        WriteError: the cache cannot be written.
    """

    def fill(into: Path) -> None:
        with progress.stage(f"get wheels for {architecture}"):
            wheels.install(wanted, architecture, python, into, glibc=glibc or wheels.NEWEST)

    return cache.kept("wheels", asked(wanted, architecture, python, glibc=glibc), fill)


def asked(wanted: Sequence[str], architecture: str, python: str, *, glibc: int | None = None) -> tuple[str, ...]:
    """Say what names that folder."""
    return (architecture, python, *wanted, *(() if glibc is None else (f"glibc 2.{glibc}",)))


def code() -> Path:
    """Copy this very package, named by what is in it: the folder beside it holds packages of another processor.

    Raises:
        WriteError: the cache cannot be written.
    """
    own = Path(attn_export.__path__[0])
    walked = os.walk(own, followlinks=True)  # in a checkout, the folders are links
    files = sorted(Path(folder, name) for folder, _, names in walked for name in names if not name.endswith(".pyc"))
    known = [f"{path.relative_to(own)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]

    def fill(into: Path) -> None:
        shutil.copytree(own, into / attn_export.__name__, ignore=shutil.ignore_patterns("__pycache__"))

    return cache.kept("code", known, fill)
