"""Hostile bundles and conformance kits: whole by their hashes, so that what is behind the hashes is met."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from attn_export import bundle
from benchmarks.attack import graphs, mutate
from benchmarks.attack.attempt import Attempt

FORMATS = {"html": "page", "markdown": "page", "junit": "xml", "sarif": "json", "json": "json"}
NAMES = ("bundle", "fused")


def hostile_bundle(work: Path, originals: Path, rng: Random) -> Attempt:
    """Make a bundle whose manifest, report, cases, model or folder was harmed, and a command that reads it."""
    folder = _copy(originals / rng.choice(NAMES), work / "b")
    pick = rng.random()
    if pick < 0.4:
        said = mutate.json_file(folder / bundle.MANIFEST, rng)
    elif pick < 0.6:
        said = mutate.json_file(folder / bundle.REPORT, rng)
    elif pick < 0.8:
        said = mutate.npz_file(folder / bundle.CASES, rng)
    elif pick < 0.9:
        said = graphs.harm(folder / bundle.MODEL, originals / "graphs", rng)
        if rng.random() < 0.9:  # a file more than the manifest lists ends it at the door
            (folder / "beside.bin").unlink(missing_ok=True)
    else:
        said = _folder(folder, rng)
    if rng.random() < 0.95:
        seal(folder)
    return _read(rng, said, "report" if pick >= 0.4 and pick < 0.6 else "")


def _read(rng: Random, said: str, which: str) -> Attempt:
    """Choose a command that reads the bundle ``b``."""
    pick = rng.random()
    if which == "report" or pick < 0.4:
        kind = rng.choice(list(FORMATS))
        return Attempt(("report", "b", "--format", kind), said, kind_of_output=FORMATS[kind])
    if pick < 0.9:
        more: list[str] = []
        for option in (["--json"], ["--atol", "1e-3"], ["--threads", "2"], ["--backend", "onnxruntime"]):
            if rng.random() < 0.2:
                more += option
        kind = "json" if "--json" in more else ""
        return Attempt(("verify", "b", *more), said, kind_of_output=kind)
    words = rng.choice([("lint", "b", "--target", "ort_mobile"), ("diff", "b"), ("bench", "b"), ("lint", "b")])
    return Attempt(words, said)


def seal(folder: Path) -> None:
    """Write what the manifest says of the other files anew, as far as it is still a manifest."""
    manifest = _plain(folder / bundle.MANIFEST)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        return
    text = (folder / bundle.MANIFEST).read_text(encoding="utf-8")
    for name, old in list(manifest["files"].items()):
        if isinstance(old, str) and len(old) == 64 and (new := _hash(folder, name)):
            text = text.replace(old, new)
    (folder / bundle.MANIFEST).write_text(text, encoding="utf-8")


def _plain(file: Path) -> dict[str, Any] | None:
    try:
        if not file.is_file() or file.stat().st_size > 10 << 20:
            return None
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, RuntimeError):
        return None
    return value if isinstance(value, dict) else None


def _hash(folder: Path, name: str) -> str:
    """Hash of a regular file in the folder; empty where it is none, or larger than is worth reading."""
    file = folder / name
    try:
        small = file.is_file() and file.resolve().is_relative_to(folder.resolve()) and file.stat().st_size < 1 << 30
    except (OSError, ValueError, RuntimeError):
        return ""
    return bundle.sha256(file) if small else ""


def _copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.rglob("*"):
        place = target / file.relative_to(source)
        if file.is_dir():
            place.mkdir()
        elif file.name != bundle.PAGE:
            shutil.copyfile(file, place)
    # The page is made of the others, and large: its name and hash are what is read of it.
    for page in source.rglob(bundle.PAGE):
        shutil.copyfile(page, target / page.relative_to(source))
    return target


def _folder(folder: Path, rng: Random) -> str:
    """Harm the folder itself."""
    pick = rng.randrange(8)
    if pick < 5:
        return mutate.place_file(rng.choice(sorted(file for file in folder.rglob("*") if file.is_file())), rng)
    if pick == 5:
        name = rng.choice(["extra.bin", "model.onnx.data", ".hidden", "numpy.py", "x" * 200, "-rf", "a\nb", "é\u202e"])
        (folder / name).write_bytes(b"import os; os.system('touch EXECUTED')")
        return f"one file more: {name[:20]!r}"
    manifest = _plain(folder / bundle.MANIFEST) or {}
    if pick == 6 and isinstance(manifest.get("files"), dict):
        name = rng.choice(
            ["../keep/thesis.tex", "/etc/passwd", "/dev/zero", ".", "..", "", "a\0b", "x/../model.onnx", "sub/x"]
        )
        manifest["files"][name] = rng.choice(["0" * 64, "", None, 3])
        (folder / bundle.MANIFEST).write_bytes(mutate.dumps(manifest))
        return f"the manifest names {name!r}"
    place = folder / "sub" / "sub"
    place.mkdir(parents=True)
    (place / "model.onnx").symlink_to("../../model.onnx")
    (folder / "round").symlink_to(".")
    return "a folder in it, and one that leads round"


def hostile_kit(work: Path, originals: Path, rng: Random) -> Attempt:
    """Make a conformance kit that was harmed and made whole again by its hashes."""
    kit = _copy(originals / "kit", work / "k")
    inner = kit / rng.choice(NAMES)
    pick = rng.random()
    if pick < 0.25:
        said = mutate.json_file(inner / "result.json", rng)
    elif pick < 0.5:
        said = mutate.json_file(inner / "bundle.json", rng)
    elif pick < 0.65:
        said = mutate.npz_file(inner / rng.choice(["cases.npz", "outputs.npz"]), rng)
    elif pick < 0.9:
        seal(kit)
        said = mutate.json_file(kit / "manifest.json", rng)
    else:
        said = mutate.place_file(rng.choice(sorted(file for file in kit.rglob("*") if file.is_file())), rng)
    if rng.random() < 0.95:
        seal(kit)
    words: tuple[str, ...] = ("conform", "check", "k")
    if rng.random() < 0.3:
        _copy(originals / "bundle", work / "b")
        words = (*words, "b")
    if rng.random() < 0.3:
        return Attempt((*words, "--json"), said, kind_of_output="json")
    return Attempt(words, said)
