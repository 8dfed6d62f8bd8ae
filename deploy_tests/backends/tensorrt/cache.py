"""Engines that were built before, keyed by everything that shapes them; each is written whole or not at all.

$XDG_CACHE_HOME/attn-export/engines/<key>/engine, build.json
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.backends.tensorrt.request import Request
from attn_export.deploy_tests.compiling.evidence import graph_hash

ENGINE, BUILD = "engine", "build.json"


@dataclass(frozen=True)
class Key:
    """What an engine depends on: the graph, the product and its version, the GPU, the flags."""

    graph: str
    product: str
    version: str
    sm: str
    gpu: str
    flags: str

    def digest(self) -> str:
        """Name of the cached folder."""
        text = json.dumps([self.graph, self.product, self.version, self.sm, self.gpu, self.flags])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def key(request: Request, version: str, sm: str, gpu: str) -> Key:
    """Hash a request on a GPU; ``gpu`` is its name, since engines are tuned for a model, not only its SM."""
    flags = json.dumps(request.flags(), sort_keys=True)
    return Key(graph_hash(request.model), request.product, version, sm, gpu, flags)


def folder() -> Path:
    """Where engines are kept: ``ATTN_EXPORT_CACHE``, or the user's cache folder."""
    if chosen := os.environ.get("ATTN_EXPORT_CACHE"):
        return Path(chosen) / "engines"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "attn-export" / "engines"


def find(wanted: Key) -> bytes | None:
    """Find the engine for a key; None where there is none or it is not what was written."""
    place = folder() / wanted.digest()
    try:
        note = json.loads((place / BUILD).read_text(encoding="utf-8"))
        plan = (place / ENGINE).read_bytes()
    except (OSError, json.JSONDecodeError):
        return None
    intact = isinstance(note, dict) and note.get("sha256") == hashlib.sha256(plan).hexdigest()
    return plan if intact else None


def keep(wanted: Key, plan: bytes, note: dict[str, Any]) -> None:
    """Keep an engine. A cache that cannot be written to is no reason to fail: the next run builds again."""
    place = folder() / wanted.digest()
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=place.parent))
        try:
            (temporary / ENGINE).write_bytes(plan)
            whole = {**note, "key": vars(wanted), "sha256": hashlib.sha256(plan).hexdigest()}
            (temporary / BUILD).write_text(json.dumps(whole, indent=1), encoding="utf-8")
            if place.exists() and find(wanted) is None:
                shutil.rmtree(place, ignore_errors=True)  # damaged: it must not block the new one
            with contextlib.suppress(OSError):  # another process was first: its engine is as good
                temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
