"""NVIDIA's official binding wheels, downloaded once and unpacked outside the repository.

$XDG_CACHE_HOME/attn-export-tests/{wheels,unpacked}/…
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Wheel:
    """A distribution at a version, and the module inside it that is looked at."""

    distribution: str
    version: str
    module: str = ""

    @property
    def label(self) -> str:
        return f"{self.distribution.split('-')[-1] if self.module == '' else self.module}-{self.version}"


#: 10.0.1 is there because one mutant tells it from all later ones.
BINDINGS = {
    "10.0.1": Wheel("tensorrt-cu12-bindings", "10.0.1", "tensorrt_bindings"),
    "10.3.0": Wheel("tensorrt-cu12-bindings", "10.3.0", "tensorrt_bindings"),
    "10.16.1.11": Wheel("tensorrt-cu13-bindings", "10.16.1.11", "tensorrt_bindings"),
    "11.4.0.106": Wheel("tensorrt-cu13-bindings", "11.4.0.106", "tensorrt_bindings"),
    "rtx": Wheel("tensorrt-rtx-cu13-bindings", "1.7.1.116", "tensorrt_rtx_bindings"),
}
RUNTIMES = {
    "12": Wheel("nvidia-cuda-runtime-cu12", "12.9.79"),
    "13": Wheel("nvidia-cuda-runtime", "13.0.96"),
}


def cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "attn-export-tests"


def unpacked(wheel: Wheel) -> Path:
    """Folder with the wheel's content.

    A Python for which NVIDIA publishes no such wheel cannot read this contract: that skips on a developer's machine
    and fails in CI, which has to run one that can.
    """
    tag = f"{wheel.distribution}-{wheel.version}-py{sys.version_info.major}{sys.version_info.minor}"
    folder = cache() / "unpacked" / tag
    if (folder / ".whole").exists():
        return folder
    store = cache() / "wheels" / tag
    store.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q", "-d", str(store)]
    done = subprocess.run([*command, f"{wheel.distribution}=={wheel.version}"], capture_output=True, text=True)
    if done.returncode:
        reason = f"{wheel.distribution} {wheel.version} cannot be downloaded for this Python: {done.stderr[-300:]}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    (archive,) = store.glob("*.whl")
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    (folder / ".whole").touch()
    return folder
