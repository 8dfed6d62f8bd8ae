"""The conformance kit: run bundles on one machine, keep everything that was measured, and let anyone recompute it.

    DIR/manifest.json            what ran it: backend, machine, versions; sha256 of every other file
    DIR/<bundle>/bundle.json     the bundle's manifest, with the sha256 of the graph that ran
    DIR/<bundle>/cases.npz       its inputs and truth
    DIR/<bundle>/outputs.npz     what came out, as it came
    DIR/<bundle>/result.json     parity, samples and percentiles, layers and their times; or why it did not run

``conform`` writes it whole or not at all; ``check`` believes none of its figures and computes them again.
Neither needs torch or onnx.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attn_export import __version__, bundle
from attn_export.bundle import Array, Bundle, Port
from attn_export.deploy_tests import environment
from attn_export.deploy_tests import latency as timing
from attn_export.deploy_tests import verify as proofs
from attn_export.deploy_tests.backend import Feeds, Run
from attn_export.deploy_tests.backends import missing
from attn_export.deploy_tests.backends.tensorrt import figures, machine
from attn_export.deploy_tests.backends.tensorrt.run import EngineRun
from attn_export.deploy_tests.parity import Parity, prove
from attn_export.deploy_tests.statistics import percentile
from attn_export.errors import BackendError, BackendMissingError, BundleError, UsageError, WriteError

SCHEMA = 1
MANIFEST, BUNDLE, CASES, OUTPUTS, RESULT = "manifest.json", "bundle.json", "cases.npz", "outputs.npz", "result.json"
PERCENTILES = (50, 90, 95, 99)
#: What a row of a kit can be found to be, from best to worst.
HOLDS, FAILS, REFUSED, STALE, ALTERED = "HOLDS", "FAILS", "REFUSED", "STALE", "ALTERED"


@dataclass(frozen=True)
class Finding:
    """What ``check`` finds of one bundle in a kit.

    Attributes:
        name: its folder.
        status: ``HOLDS``, ``FAILS`` (parity), ``REFUSED`` (it did not run), ``STALE`` (the graph has changed since) or
            ``ALTERED`` (a file or a figure is not what was written).
        sentence: the same for people.
        backend: on what it ran.
        percentiles: recomputed, in milliseconds, by kind of latency.
    """

    name: str
    status: str
    sentence: str
    backend: str
    percentiles: Mapping[str, Mapping[str, float]]


def conform(
    bundles: Iterable[Path],
    out: Path,
    *,
    backend: str = "tensorrt",
    duration: float = 3.0,
    samples: int = 200,
) -> list[Finding]:
    """Run every bundle, and every bundle of a folder of them, on ``backend``, and write the kit to ``out``.

    A bundle that is refused is a row, not an end.

    Raises:
        BackendMissingError: the backend is not available; nothing is written.
        BundleError: a bundle is not whole.
        UsageError: there are no bundles, or ``out`` exists.
        WriteError: ``out`` cannot be written.
    """
    paths = _bundles(bundles)
    if not paths:
        raise UsageError("conform wants at least one bundle; write some with `attn-export NAME -o DIR`")
    if out.exists():
        raise UsageError(f"{out} exists; a kit is written once: choose another folder")
    if why := missing(backend):
        raise BackendMissingError(f"{backend} is not available here: {why}")
    whole = _named([bundle.read(path) for path in paths])
    temporary = out.absolute().with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir(parents=True)
        facts: dict[str, str] = {}
        for name, item in whole.items():
            facts |= _conform_one(item, temporary / name, backend, duration, samples)
        _write_manifest(temporary, backend, facts)
        temporary.rename(out)
    except OSError as error:
        raise WriteError(f"cannot write the kit {out}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return check(out, paths)


def _bundles(paths: Iterable[Path]) -> list[Path]:
    """Each path that is no folder of bundles, and the bundles of each that is one."""
    found: list[Path] = []
    for path in paths:
        inner = [] if (path / bundle.MANIFEST).is_file() else sorted(path.glob(f"*/{bundle.MANIFEST}"))
        found += [manifest.parent for manifest in inner] or [path]
    return found


def _named(whole: Sequence[Bundle]) -> dict[str, Bundle]:
    found: dict[str, Bundle] = {}
    for item in whole:
        name = item.path.resolve().name
        if name in found:
            raise UsageError(f"two bundles lie in folders called {name!r}; rename one")
        found[name] = item
    return found


def _conform_one(item: Bundle, folder: Path, backend: str, duration: float, samples: int) -> dict[str, str]:
    folder.mkdir()
    shutil.copy(item.path / bundle.MANIFEST, folder / BUNDLE)
    shutil.copy(item.path / bundle.CASES, folder / CASES)
    facts: dict[str, str] = {}
    outputs: dict[str, Array] = {}
    try:
        with proofs.opened(item, backend) as (run, name, seconds):
            for index, case in enumerate(item.cases):
                outputs |= {f"{index}.{port}": value for port, value in run(case.inputs).items()}
            result: dict[str, Any] = {"backend": name, "cold_start_s": seconds}
            result |= _measure(run, item.cases[0].inputs, seconds, duration, samples)
            if isinstance(run, EngineRun):
                result["level"] = "E2"
                facts = machine.describe(run.device.runtime, run.device.index)
        parity = _replay(item, outputs, name)
        result |= {"parity": parity.as_json(), "percentiles": _percentiles(result["samples_ms"])}
    except BackendError as error:
        result = {"backend": backend, "error": str(error)}
        outputs = {}
    np.savez(folder / OUTPUTS, **outputs)  # type: ignore[arg-type]  # the stub reads ** as the keyword allow_pickle
    bundle.write_json(folder / RESULT, result)
    return facts


def _measure(run: Run, feeds: Feeds, seconds: float, duration: float, samples: int) -> dict[str, Any]:
    """Samples by kind; for an engine also its plan and the time of each layer."""
    if not isinstance(run, EngineRun):
        rule = timing.Protocol(duration=duration, iterations=samples)
        times = timing.measure(run, feeds, threads=1, cold_start=seconds, protocol=rule)
        return {"samples_ms": {"host": [value / 1e6 for value in times.wall]}}
    found = figures.measure(run, feeds, duration=duration, samples=samples)
    return {key: found[key] for key in ("samples_ms", "graph_missing", "plan", "layers_ms")}


def _percentiles(samples: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {kind: {f"p{p}": percentile(values, p) for p in PERCENTILES} for kind, values in samples.items() if values}


def _replay(item: Bundle, outputs: Mapping[str, Array], backend: str) -> Parity:
    """Parity of kept outputs, by the same code that proves a live run."""
    count = iter(range(len(item.cases)))

    def run(_feeds: Feeds) -> dict[str, Array]:
        index = next(count)
        return {port.name: outputs[key] for port in item.outputs if (key := f"{index}.{port.name}") in outputs}

    return prove(run, item.cases, item.outputs, backend=backend, tolerance=item.tolerance)


def _write_manifest(folder: Path, backend: str, facts: Mapping[str, str]) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): bundle.sha256(path) for path in files}
    content = {
        "schema": SCHEMA,
        "attn_export": __version__,
        "backend": backend,
        "environment": environment.describe(),
        "gpu": dict(facts),
        "files": hashes,
    }
    bundle.write_json(folder / MANIFEST, content)


def check(folder: Path, bundles: Iterable[Path] = ()) -> list[Finding]:
    """Recompute parity and percentiles of a kit from its raw data; with bundles, say which graphs have changed since.

    Raises:
        BundleError: ``folder`` is no kit, or a bundle given is not whole.
    """
    manifest = _read(folder)
    now = {path.resolve().name: _graph(bundle.read(path).manifest) for path in _bundles(bundles)}
    names = sorted({file.partition("/")[0] for file in manifest["files"] if "/" in file})
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    findings = []
    for name in names:
        own = [file for file in (*manifest["files"], *present) if file.startswith(f"{name}/")]
        broken = next((f for f in own if not _intact(folder / f, manifest["files"].get(f, ""))), None)
        if broken is not None:
            findings.append(Finding(name, ALTERED, f"{broken} is not what was written", "", {}))
        else:
            findings.append(_check_one(folder / name, now.get(name)))
    return findings


def _graph(manifest: Mapping[str, Any]) -> str:
    """Hash of the graph; where the weights are in a file of their own, of both."""
    return "+".join(str(hash_) for name, hash_ in sorted(manifest["files"].items()) if name.startswith(bundle.MODEL))


def _intact(path: Path, wanted: str) -> bool:
    return path.is_file() and bundle.sha256(path) == wanted


def _read(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{folder} is no conformance kit: {error}") from error
    good = isinstance(manifest, dict) and manifest.get("schema") == SCHEMA and isinstance(manifest.get("files"), dict)
    if not good:
        raise BundleError(f"{folder} is no conformance kit of schema {SCHEMA}")
    root = folder.resolve()
    for file in manifest["files"]:
        if not (folder / file).resolve().is_relative_to(root):
            raise BundleError(f"{folder}: {MANIFEST} names {file!r}, which lies outside the kit")
    return dict(manifest)


def _check_one(folder: Path, graph_now: str | None) -> Finding:
    name = folder.name
    try:
        ran = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        graph = _graph(ran)
        if "error" in result:
            return Finding(name, REFUSED, result["error"], result["backend"], {})
        with np.load(folder / OUTPUTS, allow_pickle=False) as archive:
            outputs = {key: archive[key] for key in archive.files}
        parity = _replay(_as_bundle(folder, ran), outputs, result["backend"])
        percentiles = _percentiles(result["samples_ms"])
    except (KeyError, TypeError, ValueError, OSError) as error:
        return Finding(name, ALTERED, f"its data cannot be read: {error!r}", "", {})
    backend = result["backend"]
    if percentiles != result.get("percentiles") or parity.as_json() != result.get("parity"):
        return Finding(name, ALTERED, "its figures do not follow from its raw data", backend, percentiles)
    if graph_now is not None and graph_now != graph:
        sentence = f"the graph has changed: {graph[:12]}… ran, the bundle now holds {graph_now[:12]}…; run it again"
        return Finding(name, STALE, sentence, backend, percentiles)
    return Finding(name, HOLDS if parity.ok else FAILS, parity.sentence(), backend, percentiles)


def _as_bundle(folder: Path, manifest: Mapping[str, Any]) -> Bundle:
    inputs, outputs = (
        tuple(Port(p["name"], p["dtype"], tuple(p["shape"])) for p in manifest[key]) for key in ("inputs", "outputs")
    )
    cases = bundle.read_cases(folder / CASES)
    name, tolerance = manifest["subject"]["name"], float(manifest["tolerance"]["k"])
    return Bundle(folder, name, inputs, outputs, (), tolerance, cases, manifest)


def executed_on(kits: Iterable[Path]) -> str:
    """The README's table of machines, as Markdown; where there are no kits it says so.

    >>> executed_on([])
    'Executed on no GPU yet: what is said about TensorRT is compiled (E1), not run.'
    """
    lines = []
    for kit in kits:
        manifest, findings = _read(kit), check(kit)
        counts = {status: sum(f.status == status for f in findings) for status in (HOLDS, FAILS, REFUSED, ALTERED)}
        gpu = manifest.get("gpu") or {}
        where = f"{gpu['gpu']} (SM{gpu['sm']})" if gpu else manifest["environment"]["processor"]
        what = next((f.backend for f in findings if f.backend), manifest["backend"])
        lines.append(f"| {where} | {what} | " + " | ".join(str(count) for count in counts.values()) + " |")
    if not lines:
        return "Executed on no GPU yet: what is said about TensorRT is compiled (E1), not run."
    head = ["| machine | backend | holds | fails | refused | altered |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *lines])
