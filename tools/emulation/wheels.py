"""Wheels for another processor: the same versions as here, chosen and unpacked by pip, installed nowhere."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from attn_export.deploy_tests import backends
from attn_export.errors import BackendMissingError, UsageError
from attn_export.process import children
from attn_export.tools.emulation import foreign

#: What our own device side imports beside the runtime; a test holds it against pyproject.toml.
BASE = ("numpy", "rich", "typer")
#: What decoding images for ``--data`` takes.
IMAGES = "Pillow"
DISTRIBUTION = "attn-export"
#: Of glibc: the oldest that wheels are built for, and that of the system which they run on.
_OLDEST, NEWEST = 17, 41


def requirements(names: Iterable[str], *, images: bool = False) -> tuple[str, ...]:
    """List what to install for the backends of these names, in the versions that are installed here.

    Raises:
        UnknownNameError: there is no such backend.
        UsageError: a backend is a plug-in, whose code would have to go along.
    """
    wanted = list(BASE)
    for name in names:
        if backends.BACKENDS.entry(name).path is None:
            raise UsageError(f"{name} is a plug-in, which is not taken along to an emulated system; leave it out there")
        wanted += backends.traits(name).libraries
    if images:
        wanted.append(IMAGES)
    return tuple(map(_version_here, dict.fromkeys(wanted)))


def _version_here(name: str) -> str:
    """Give ``name`` with the version that is installed here, else as our own extras ask for it."""
    try:
        # A build's own suffix, as +cpu, is in no index that others share.
        return f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        ours = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        ours = []
    asked = (re.split(r"\s*;", line)[0] for line in ours)
    return next((line for line in asked if _plain(re.split(r"[\s\[<>=!~]", line)[0]) == _plain(name)), name)


def _plain(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def install(wanted: Iterable[str], architecture: str, python: str, into: Path, *, glibc: int = NEWEST) -> None:
    """Unpack wheels for ``architecture`` (as wheels name it) and ``python`` (as 3.13) to ``into``.

    None of them needs a newer glibc than 2 and that number.

    Raises:
        BackendMissingError: there is no pip, one of them has no such wheel, or the index cannot be reached.
    """
    if importlib.util.find_spec("pip") is None:
        raise BackendMissingError(f"it needs pip in {sys.executable}: run `{sys.executable} -m ensurepip`")
    # pip takes each tag as it stands, and expands none to the older ones that it includes.
    tags = [f"manylinux_2_{minor}_{architecture}" for minor in range(glibc, _OLDEST - 1, -1)]
    platforms = [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{architecture}")]
    foreign.run(
        *children.command("pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-compile"),
        f"--target={into}", f"--python-version={python}", "--implementation=cp", "--only-binary=:all:",
        *platforms, *wanted,
        what=f"get wheels for {architecture}", env=children.environment(),
    )  # fmt: skip
