"""Names that mean something to a terminal, a shell, a table or a page, in a bundle that is otherwise right."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from random import Random
from typing import Any

from attn_export import bundle
from benchmarks.attack import graphs, mutate
from benchmarks.attack.attempt import Attempt
from benchmarks.attack.bundles import FORMATS, seal


def hostile_names(work: Path, originals: Path, rng: Random) -> Attempt:
    """Make a bundle that proves itself under wild names, and a command that prints them."""
    if rng.random() < 0.15:
        return _graph(work, originals, rng)
    place = rng.choice(
        ["b"] * 6
        + ["x; touch EXECUTED", "-rf", "a|b", "\x1b[31m", "[/]", "<script>alert(1)", "a\nb", "\u202eb", "\udcff"]
    )
    folder = work / place
    shutil.copytree(originals / rng.choice(["bundle", "fused"]), folder)
    files = {name: folder / name for name in (bundle.MANIFEST, bundle.REPORT)}
    plain = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    new = _mapping(plain[bundle.MANIFEST], plain[bundle.REPORT], rng)
    for name, file in files.items():
        file.write_bytes(mutate.dumps(_renamed(plain[name], new)))
    _rename_model(folder / bundle.MODEL, new)
    _rename_cases(folder / bundle.CASES, new)
    seal(folder)
    said = f"{len(new)} names, such as {next(iter(new.values()), '')[:30]!r}"
    path = f"./{place}" if place.startswith("-") else place
    kind = rng.choice(list(FORMATS))
    words = rng.choice(
        [
            ("report", path, "--format", kind),
            ("report", path, "--format", kind),
            ("report", path),
            ("verify", path),
            ("verify", path, "--json"),
            ("lint", path, "--target", "ort_mobile"),
            ("diff", path),
        ]
    )
    expected = FORMATS[kind] if words[0] == "report" and len(words) == 4 else "json" if "--json" in words else ""
    return Attempt(words, said, kind_of_output=expected, paste=True)


def _graph(work: Path, originals: Path, rng: Random) -> Attempt:
    """Make a bare graph under wild names."""
    import onnx

    model = onnx.load(originals / "graphs" / f"{rng.choice(['branches', 'attention', 'loop'])}.onnx")
    known = {name for node in model.graph.node for name in (*node.input, *node.output, node.name)} - {""}
    file = work / "x.onnx"
    onnx.save(model, file)
    _rename_model(file, {name: f"{graphs.text(rng)[:500]}{index}" for index, name in enumerate(sorted(known))})
    words = rng.choice(
        [
            ("lint", "x.onnx", "--target", "ort_mobile"),
            ("lint", "x.onnx"),
            ("fuse", "x.onnx", "-o", "y.onnx"),
            ("x.onnx", "-o", "out", "--no-bench"),
            ("diff", "x.onnx"),
        ]
    )
    return Attempt(words, "names of a graph", writes=("y.onnx", "out", "out/*"), paste=True)


def _mapping(manifest: Any, report: Any, rng: Random) -> dict[str, str]:
    """Old names to new ones: of the subject, the cases, the tensors, the nodes and where they come from."""
    chosen = rng.sample(_groups(manifest, report), rng.randint(1, 4))
    found: dict[str, str] = {}
    for group in chosen:
        text = graphs.text(rng).replace("\0", "") or "n"
        for index, name in enumerate(dict.fromkeys(group)):
            if name and name not in ("float32", "float64"):
                found[name] = text if index == 0 else f"{text}{index}"
    return found


def _groups(manifest: Any, report: Any) -> list[list[str]]:
    """Names that are of one kind, and are renamed together."""
    nodes = (manifest.get("costs") or {}).get("nodes") or []
    return [
        [manifest["subject"]["name"]],
        [port["name"] for port in manifest["inputs"]],
        [port["name"] for port in manifest["outputs"]],
        [row["case"] for run in report["runs"] for row in (run.get("parity") or {}).get("comparisons", [])],
        [node["name"] for node in nodes],
        [name for node in nodes for name in node["outputs"]],
        [str(node.get(key)) for node in nodes for key in ("module", "source") if node.get(key)],
        [stage["name"] for stage in manifest["stages"]],
        [str(run.get("backend")) for run in report["runs"]],
        [manifest["subject"]["weights"]],
        [str(word) for word in manifest.get("command") or ()],
        [str(value) for value in manifest["environment"].values() if isinstance(value, str)],
    ]


def _renamed(value: Any, new: dict[str, str]) -> Any:
    if isinstance(value, str):
        return new.get(value, value)
    if isinstance(value, list):
        return [_renamed(item, new) for item in value]
    if isinstance(value, dict):
        kept = ("name", "backend", "case")  # keys of the format itself are no names
        return {key if key in kept else new.get(key, key): _renamed(item, new) for key, item in value.items()}
    return value


def _rename_model(file: Path, new: dict[str, str]) -> None:
    import onnx

    model = onnx.load(file)

    def graph(one: Any) -> None:
        for node in one.node:
            for edges in (node.input, node.output):
                for at, name in enumerate(edges):
                    edges[at] = new.get(name, name)
            node.name = new.get(node.name, node.name)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    graph(attribute.g)
        for value in (*one.input, *one.output, *one.initializer, *one.value_info):
            value.name = new.get(value.name, value.name)

    graph(model.graph)
    file.write_bytes(model.SerializeToString())


def _rename_cases(file: Path, new: dict[str, str]) -> None:
    import io

    import numpy as np

    with zipfile.ZipFile(file) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    names = np.lib.format.read_array(io.BytesIO(members["names.npy"]))
    members["names.npy"] = mutate.npy(np.array([new.get(str(name), str(name)) for name in names]))
    with zipfile.ZipFile(file, "w") as archive:
        for key, content in members.items():
            head, dot, tail = key.removesuffix(".npy").rpartition(".")
            archive.writestr(mutate.member(f"{head}{dot}{new.get(tail, tail)}"[:60_000] + ".npy"), content)
