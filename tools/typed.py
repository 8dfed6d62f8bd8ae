"""What words mean that were typed, noted in the cache: it depends on our code, and on the folder they are typed in.

The folder counts for paths in them, and for the defaults that a ``pyproject.toml`` there or above it sets. Our code is
looked at last: most words that are typed were never noted, and hashing it takes longer than to see that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attn_export.cache import house, needs, notes

_DEFAULTS = "pyproject.toml"


def key() -> str:
    """Give the key of the words that were typed, here."""
    here = Path(os.path.realpath("."))
    defaults = [(str(folder), needs.content(folder / _DEFAULTS)) for folder in (here, *here.parents)]
    return needs.key({"typed": sys.argv[1:], "defaults": defaults})


def note(root: Path, parameters: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """Note what the words mean that were typed; ``described`` is what ``house`` says."""
    plain = {name: {"path": str(value)} if isinstance(value, Path) else value for name, value in parameters.items()}
    notes.put(root, key(), {"house": needs.key(described), "parameters": plain})


def parameters(root: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Say what the words mean that were typed, and what ``house`` says; None where that is not noted for it."""
    found = notes.find(root, key())
    if not isinstance(found, dict) or not isinstance(plain := found.get("parameters"), dict):
        return None
    described = house.describe()
    if found.get("house") != needs.key(described):
        return None
    known = {name: Path(value["path"]) if isinstance(value, dict) else value for name, value in plain.items()}
    return known, described
