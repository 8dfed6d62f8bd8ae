"""What the kernel says of the machine in small files, any of which may be missing, closed or nonsense."""

from __future__ import annotations

import re
from pathlib import Path


def text(path: Path) -> str:
    """Read a file of one line; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()[:200]
    except (OSError, UnicodeDecodeError):
        return ""


def number(path: Path) -> int | None:
    """Read a file that holds a whole number; None where it holds none."""
    found = text(path)
    return int(found) if re.fullmatch(r"-?\d{1,18}", found) else None
