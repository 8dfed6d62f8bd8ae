"""What a machine computes with: our code and the libraries. Two machines with other versions give other results."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path

from attn_export import __version__
from attn_export.cache import house
from attn_export.deploy_tests.machine import environment

#: The name of our own code among the libraries.
OWN = "attn-export"


def here() -> dict[str, str]:
    """Give versions by name: Python's first two numbers, the libraries, and ours with a hash of its code."""
    code = house.code(Path(__file__).parents[2])
    python = ".".join(platform.python_version_tuple()[:2])
    return {OWN: f"{__version__} ({code[:12]})", "python": python, **environment.describe()["libraries"]}


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Name what differs; empty where nothing does.

    >>> differences({"torch": "2.13.0", "onnx": "1.23"}, {"torch": "2.12.1", "onnx": "1.23"})
    'torch 2.12.1 there, 2.13.0 here'
    """
    names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    return ", ".join(f"{name} {found.get(name, 'missing')} there, {wanted.get(name, 'missing')} here" for name in names)


def identity() -> str:
    """Tell this machine from others, for figures that hold for it alone: a short hash, which names nothing."""
    found = environment.describe()
    try:
        own = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        own = ""
    what = [own or platform.node(), found["processor"], found["cores"], platform.machine()]
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]
