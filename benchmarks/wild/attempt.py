"""One row: the command line in a process of its own, and what it gave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnx

from attn_export import bundle
from attn_export.cache import place
from benchmarks.wild import own_fuse
from benchmarks.wild.network import FILE, Network
from benchmarks.wild.own_fuse import OWN
from benchmarks.wild.row import Row

#: The folder that the bundle is written to, beside the file.
OUT = "bundle"
#: Stages that are the exporter's own: to load is the user's, the rest is ours.
EXPORT, LOAD = "export", "load"


@dataclass(frozen=True)
class Done:
    """How a process ended; the code is None where it was stopped."""

    code: int | None
    seconds: float
    out: str
    err: str


def attempt(network: Network, python: Path, limit: float) -> Row:
    """Type the command for one network in an empty folder, and read what it wrote."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if network.file is None:
            (folder / FILE).write_text(network.source, encoding="utf-8")
        done = run([str(python), "-m", "attn_export", *network.words, "--json", "-o", OUT], folder, limit)
        counted = own_fuse.norms(network, python, folder, limit) if network.library in OWN else (None, None)
        return _row(network, done, folder, *counted)


def run(command: list[str], folder: Path, limit: float) -> Done:
    """Run a command in its own group, so that a stop at the limit leaves none of its children behind."""
    began = time.monotonic()
    afresh = {**os.environ, place.FOLDER: place.OFF}  # a time from the cache would be no network's
    with subprocess.Popen(
        command,
        cwd=folder,
        env=afresh,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            out, err = child.communicate(timeout=limit)
            code: int | None = child.returncode
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            code = None
    return Done(code, time.monotonic() - began, out, err)


def message(done: Done) -> str:
    """Return the last thing that was said: the error of the JSON object, or the last line."""
    said = _json(done.out).get("error")
    if isinstance(said, Mapping):
        said = said.get("message")
    lines = done.err.strip().splitlines()
    return str(said) if said else lines[-1] if lines and done.code else ""


def _row(network: Network, done: Done, folder: Path, before: int | None, own: int | None) -> Row:
    found, written = _json(done.out), folder / OUT
    stages, seconds = found.get("stages", []), found.get("seconds", {})
    ours = {name: spent for name, spent in seconds.items() if name not in (EXPORT, LOAD)}
    slowest = max(ours, key=lambda name: ours[name], default="")
    first = network.file or written / bundle.ORIGINAL
    return Row(
        library=network.library,
        name=network.name,
        inputs=network.inputs,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        exit=done.code,
        seconds=round(done.seconds, 1),
        exporter=_rounded(seconds.get(EXPORT)),
        slowest=slowest,
        slowest_seconds=_rounded(ours.get(slowest)),
        nodes=(stages[0]["nodes"], stages[-1]["nodes"]) if stages else None,
        norms=before if network.file is None else _norms(first),
        exported_norms=_norms(first) if found else None,
        left=_norms(written / bundle.MODEL),
        own_left=own,
        k=max((round(stage["normalized_error"], 2) for stage in stages), default=None),
        message=" ".join(message(done).split()),
        warnings=tuple(found.get("warnings", ())),
    )


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return found if isinstance(found, dict) else {}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _norms(file: Path) -> int | None:
    if not file.is_file():
        return None
    graph = onnx.load(file, load_external_data=False).graph
    return len([node for node in graph.node if node.op_type == "BatchNormalization"])
