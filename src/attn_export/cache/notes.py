"""Short notes in the cache: plain data by a key, believed where the note's name has the hash of its content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

from attn_export.cache import place
from attn_export.untrusted import files, plain_json

_SUFFIX = ".note"
_NAME = re.compile(r"([0-9a-f]{40})-([0-9a-f]{40})\.note")
#: Notes that are kept, and bytes of one.
_COUNT, _MOST = 500, files.MB


def find(root: Path, key: str) -> Any:
    """Give what was noted under a key; None where nothing was, or nothing that can be believed."""
    try:
        if place.fault(root):
            return None
        with os.scandir(root) as scanned:
            names = [one.name for one in scanned if one.name.startswith(f"{key[:40]}-") and _NAME.fullmatch(one.name)]
        for name in names:
            descriptor = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(_MOST)
            if hashlib.sha256(content).hexdigest()[:40] == name.removesuffix(_SUFFIX).partition("-")[2]:
                os.utime(root / name)
                return plain_json.parse(content.decode("utf-8"))
            (root / name).unlink()
    except (OSError, ValueError):
        pass
    return None


def put(root: Path, key: str, content: Any) -> None:
    """Note something under a key, if that can be done, in place of what was noted under it.

    Of too many notes those go that were not used for longest.
    """
    with contextlib.suppress(OSError, ValueError):
        if place.fault(root):
            return
        written = json.dumps(content, allow_nan=False)
        plain_json.parse(written)
        name = f"{key[:40]}-{hashlib.sha256(written.encode()).hexdigest()[:40]}{_SUFFIX}"
        partial = root / f".{secrets.token_hex(8)}.partial-note"
        try:
            partial.write_text(written, encoding="ascii")
            partial.rename(root / name)
        finally:
            partial.unlink(missing_ok=True)
        known = [one for one in root.iterdir() if _NAME.fullmatch(one.name)]
        older = [one for one in known if one.name.startswith(f"{key[:40]}-") and one.name != name]
        least = sorted(set(known) - set(older), key=lambda one: -one.stat().st_mtime)[_COUNT:]
        for one in (*older, *least):
            one.unlink(missing_ok=True)


def clear(root: Path) -> None:
    """Remove every note.

    Raises:
        OSError: the folder cannot be read.
    """
    for one in root.iterdir():
        if _NAME.fullmatch(one.name) or re.fullmatch(r"\.[0-9a-f]{16}\.partial-note", one.name):
            one.unlink(missing_ok=True)
