"""What words mean that were typed, noted in the cache: it depends on our code, and on the folder they are typed in.

The folder counts for paths in them, and for the defaults that a ``pyproject.toml`` there or above it sets.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attn_export.cache import needs, notes

_DEFAULTS = "pyproject.toml"


def key(described: Mapping[str, Any]) -> str:
    """Give the key of the words that were typed, here; ``described`` is what ``house`` says."""
    here = Path(os.path.realpath("."))
    defaults = [(str(folder), needs.content(folder / _DEFAULTS)) for folder in (here, *here.parents)]
    known = {"typed": sys.argv[1:], "defaults": defaults, "house": described}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def note(root: Path, parameters: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """Note what the words mean that were typed."""
    plain = {name: {"path": str(value)} if isinstance(value, Path) else value for name, value in parameters.items()}
    notes.put(root, key(described), plain)


def parameters(root: Path, described: Mapping[str, Any]) -> dict[str, Any] | None:
    """Say what the words mean that were typed; None where that is not noted."""
    found = notes.find(root, key(described))
    if not isinstance(found, dict):
        return None
    return {name: Path(value["path"]) if isinstance(value, dict) else value for name, value in found.items()}
