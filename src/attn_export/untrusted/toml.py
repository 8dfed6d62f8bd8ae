"""TOML from outside."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from attn_export.errors import AttnExportError, LoadError
from attn_export.untrusted import files

MOST = files.MB


def read(path: Path, error: type[AttnExportError] = LoadError, most: int = MOST) -> dict[str, Any]:
    """Read a file of TOML.

    Raises:
        error: it is no regular file, is too large, is no TOML, or this Python has no reader of it.
    """
    module = next((name for name in ("tomllib", "tomli") if importlib.util.find_spec(name)), None)
    if module is None:  # Python 3.10, whose standard library reads no TOML
        raise error(f"{path}: reading TOML needs Python 3.11 or newer, or: pip install tomli")
    try:
        content: dict[str, Any] = importlib.import_module(module).loads(files.read(path, most, error).decode("utf-8"))
    except ValueError as reason:  # of TOML, or of UTF-8
        raise error(f"{path} cannot be read: {reason}") from reason
    return content
