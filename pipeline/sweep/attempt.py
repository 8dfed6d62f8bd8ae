"""One attempt at an order on a worker of a cluster: into a folder of its own, which becomes the key's when it is whole.

What was finished here once, for whomever, is given again: a result that was lost on its way is not computed twice.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from attn_export.errors import AttnExportError
from attn_export.pipeline.sweep import order as orders
from attn_export.pipeline.sweep import versions
from attn_export.pipeline.sweep.child import Child
from attn_export.pipeline.sweep.work import work
from attn_export.untrusted import files, plain_json

#: Variable of the environment that names the folder of attempts on a worker.
FOLDER = "ATTN_EXPORT_FARM_DIR"
_ROW = "row.json"
#: Seconds after which what lies in the folder is removed, whole or half: a day, and never within a job's limit.
KEPT = 86_400.0

_lock = threading.Lock()
_idle: dict[str, list[Child]] = {}


def place() -> Path:
    """Name the folder of this user's attempts on this machine."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else Path(tempfile.gettempdir()) / f"attn-export-farm-{os.getuid()}"


def attempt(
    plain: Mapping[str, Any], content: Mapping[str, bytes], memory: int = 0, folder: Path | None = None
) -> dict[str, Any]:
    """Run an order to its row, in whatever way it ends.

    Args:
        plain: the order, as ``Order.plain`` gives it.
        content: the files of the bundle that is measured, by name.
        memory: bytes that the job may hold; 0 for no limit.
        folder: where attempts lie; the user's own by default.

    Returns:
        ``row`` as plain data, and ``files``: the bundle or the reports, and the log, by name.
    """
    order = orders.read(plain)
    where = f"{platform.node()}"
    if other := versions.differences(order.versions, versions.here()):
        return {"row": asdict(order.row("other versions", f"{where}: {other}", where=where)), "files": {}}
    root = folder or place()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _clean(root, max(KEPT, 2 * order.limit))
    whole = root / order.key
    if (there := _there(whole, order.job.label)) is not None:
        return there
    mine = root / f".{order.key}.{secrets.token_hex(4)}"
    mine.mkdir()
    try:
        bundle = _unpack(mine / "measured", content) if content else None
        with _child(order.module) as child:
            row = replace(work(order, mine, child, bundle, memory), where=where)
        (mine / _ROW).write_text(json.dumps(asdict(row)), encoding="utf-8")
        if bundle is not None:
            shutil.rmtree(bundle)
        if row.ok:
            _rename(mine, whole)
        return _there(whole if row.ok else mine, order.job.label) or {"row": asdict(row), "files": {}}
    finally:
        shutil.rmtree(mine, ignore_errors=True)


def pack(folder: Path) -> dict[str, bytes]:
    """Read a folder's files, by their names in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _unpack(folder: Path, content: Mapping[str, bytes]) -> Path:
    for name, data in content.items():
        file = files.inside(folder, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def _there(folder: Path, label: str) -> dict[str, Any] | None:
    """Give what lies in an attempt's folder; None where there is none, or it was made under another name."""
    try:
        row = plain_json.read(folder / _ROW)
        found = pack(folder)
    except (AttnExportError, OSError):  # removed meanwhile
        return None
    del found[_ROW]
    return {"row": row, "files": found} if row.get("label") == label else None


def _rename(mine: Path, whole: Path) -> None:
    """Put a finished attempt in its place; where another was faster, that one stays."""
    try:
        mine.rename(whole)
    except OSError:
        if not (whole / _ROW).is_file():
            raise


def _clean(root: Path, age: float) -> None:
    """Remove what is old: results, and what a killed worker has left."""
    for folder in root.iterdir():
        with suppress(OSError):  # another worker was faster
            if time.time() - folder.stat().st_mtime > age:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _child(module: str) -> Iterator[Child]:
    """Lend an interpreter that has no job; it is kept, as importing the exporter costs more than most jobs."""
    with _lock:
        idle = _idle.setdefault(module, [])
        child = idle.pop() if idle else Child(module)
    try:
        yield child
    finally:
        with _lock:
            idle.append(child)
