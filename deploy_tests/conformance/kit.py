"""The conformance kit: run bundles on one machine, keep everything that was measured, and let anyone recompute it.

    DIR/manifest.json            what ran it: backend, machine, versions; sha256 of every other file
    DIR/<bundle>/bundle.json     the bundle's manifest, with the sha256 of the graph that ran
    DIR/<bundle>/cases.npz       its inputs and reference
    DIR/<bundle>/outputs.npz     what came out, as it came
    DIR/<bundle>/result.json     parity, samples and percentiles, layers and their times; or why it did not run

``conform`` writes it whole or not at all; ``check`` believes none of its figures and computes them again.
Neither needs torch or onnx.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from attn_export import __version__, bundle
from attn_export.bundle import Bundle, cases, figures, manifest, reader
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import Run
from attn_export.deploy_tests.latency import measure as timing
from attn_export.deploy_tests.latency.statistics import percentiles
from attn_export.deploy_tests.machine import emulated, environment
from attn_export.deploy_tests.open_bundle import chosen, narrowed, opened
from attn_export.deploy_tests.parity import verify as proofs
from attn_export.deploy_tests.parity.compare import Parity, prove
from attn_export.errors import (
    BackendError,
    BackendMissingError,
    BundleError,
    InconclusiveError,
    UnknownNameError,
    UsageError,
)
from attn_export.types import Array, Feeds, JsonDict
from attn_export.untrusted import arrays, fields, files, plain_json

SCHEMA = 1
MANIFEST, BUNDLE, CASES, OUTPUTS, RESULT = "manifest.json", "bundle.json", "cases.npz", "outputs.npz", "result.json"
#: What a row of a kit can be found to be, from best to worst.
HOLDS, FAILS, REFUSED, STALE, ALTERED = "HOLDS", "FAILS", "REFUSED", "STALE", "ALTERED"


@dataclass(frozen=True)
class KitResult:
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


def write_kit(
    bundles: Iterable[Path],
    out: Path,
    *,
    backend: str,
    duration: float = 3.0,
    samples: int = 200,
) -> list[KitResult]:
    """Run every bundle, and every bundle of a folder of them, on ``backend``, and write the kit to ``out``.

    A bundle that is refused is a row, not an end.

    Raises:
        BackendMissingError: the backend is not available; nothing is written.
        InconclusiveError: the processor is emulated, and a kit holds times.
        BundleError: a bundle is not whole.
        UsageError: there are no bundles, or ``out`` exists.
        WriteError: ``out`` cannot be written.
    """
    emulated.refuse_to_measure()
    paths = _bundles(bundles)
    if not paths:
        raise UsageError("expected at least one bundle; write some with `attn-export NAME -o DIR`")
    if os.path.lexists(out):
        raise UsageError(f"{out} exists; a kit is written once: choose another folder")
    if why := backends.missing(backend):
        raise BackendMissingError(f"{backend} is not available here: {why}")
    whole = _named([bundle.read(path) for path in paths])
    with bundle.once(out, "kit") as temporary:
        facts: dict[str, str] = {}
        for name, item in whole.items():
            facts |= _conform_one(item, temporary / name, backend, duration, samples)
        _write_manifest(temporary, backend, facts)
    return check_kit(out, paths)


def _bundles(paths: Iterable[Path]) -> list[Path]:
    """Each path that is no folder of bundles, and the bundles of each that is one."""
    found: list[Path] = []
    for path in paths:
        inner = [] if os.path.lexists(path / bundle.MANIFEST) else sorted(path.glob(f"*/{bundle.MANIFEST}"))
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
        item = _fitting(item.only(chosen(item, backend)))
        with opened(item, backend) as (run, name, seconds):
            for index, case in enumerate(item.cases):
                outputs |= {f"{index}.{port}": value for port, value in run(case.inputs).items()}
            result: dict[str, Any] = {"backend": name, "artifact": item.artifacts[0].name, "cold_start_s": seconds}
            rule = timing.Protocol(duration=duration, iterations=samples)
            measured, facts = _measure(backend, run, item.cases[0].inputs, seconds, rule)
            result |= measured
        parity = _replay(item, outputs, name)
        result |= {"parity": parity.to_dict(), "percentiles": _percentiles(result["samples_ms"])}
    except BackendError as error:
        result = {"backend": backend, "error": str(error)}
        outputs = {}
    np.savez(folder / OUTPUTS, **outputs)  # type: ignore[arg-type]  # the stub reads ** as the keyword allow_pickle
    bundle.write_json(folder / RESULT, result)
    return facts


def _measure(
    backend: str, run: Run, feeds: Feeds, seconds: float, rule: timing.Protocol
) -> tuple[JsonDict, dict[str, str]]:
    """Take samples by kind, and facts about the device; of an engine also what its runtime says of it."""
    found = backends.measure_engine(backend, run, feeds, duration=rule.duration, samples=rule.iterations)
    if found is None:
        times = timing.measure_latency(run, feeds, threads=1, cold_start=seconds, protocol=rule)
        return {"samples_ms": {"host": [value / 1e6 for value in times.wall]}}, {}
    samples = {kind: list(values) for kind, values in found.samples_ms.items()}
    return {"samples_ms": samples, **found.details, "level": found.level}, dict(found.device)


def _percentiles(samples: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {kind: percentiles(values) for kind, values in samples.items() if values}


def _replay(item: Bundle, outputs: Mapping[str, Array], backend: str) -> Parity:
    """Parity of kept outputs, by the same code that proves a live run."""
    count = iter(range(len(item.cases)))

    def run(_feeds: Feeds) -> dict[str, Array]:
        index = next(count)
        return {port.name: outputs[key] for port in item.outputs if (key := f"{index}.{port.name}") in outputs}

    limits = item.artifacts[0]
    return prove(
        run,
        item.cases,
        item.outputs,
        backend=backend,
        tolerance=limits.normalized_limit,
        snr=limits.snr_db_limit,
        images=proofs.images(item, limits, item.cases),
    )


def _write_manifest(folder: Path, backend: str, facts: Mapping[str, str]) -> None:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): bundle.sha256(path) for path in found}
    content = {
        "schema": SCHEMA,
        "attn_export": __version__,
        "backend": backend,
        "environment": environment.describe(backend),
        "gpu": dict(facts),
        "files": hashes,
    }
    bundle.write_json(folder / MANIFEST, content)


def check_kit(folder: Path, bundles: Iterable[Path] = ()) -> list[KitResult]:
    """Recompute parity and percentiles of a kit from its raw data; with bundles, say which graphs have changed since.

    Raises:
        BundleError: ``folder`` is no kit, or a bundle given is not whole.
    """
    kit = _read(folder)
    now = {path.resolve().name: _graph(bundle.read(path).manifest) for path in _bundles(bundles)}
    names = sorted({file.partition("/")[0] for file in kit.files if "/" in file})
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST}
    findings = []
    for name in names:
        own = [file for file in (*kit.files, *present) if file.startswith(f"{name}/")]
        broken = next((f for f in own if not _intact(folder / f, kit.files.get(f, ""))), None)
        if broken is not None:
            findings.append(KitResult(name, ALTERED, f"{broken} is not what was written", "", {}))
        else:
            findings.append(_check_one(folder / name, now.get(name)))
    return findings


def _graph(content: Mapping[str, Any]) -> str:
    """Join the hashes of all files of all artifacts of a manifest."""
    return "+".join(content["files"][name] for one in content["artifacts"] for name in one["files"])


def _intact(path: Path, expected: str) -> bool:
    try:
        files.regular(path, files.GB * 64, BundleError)
        return not path.is_symlink() and bundle.sha256(path) == expected
    except (OSError, BundleError):
        return False


@dataclass(frozen=True)
class _Kit:
    """What a kit's manifest says."""

    schema: int
    files: Mapping[str, str]
    attn_export: str = ""
    backend: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    gpu: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Result:
    """What a kit says of one bundle: why it did not run, or what was measured."""

    backend: str
    artifact: str = ""
    error: str | None = None
    cold_start_s: figures.Time = 0.0
    samples_ms: Mapping[str, tuple[figures.Time, ...]] = field(default_factory=dict)
    parity: Mapping[str, Any] | None = None
    percentiles: Mapping[str, Any] | None = None
    level: str = ""
    graph_missing: str = ""
    plan: Any = None
    layers_ms: Any = None


def _read(folder: Path) -> _Kit:
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} is not a conformance kit: it has no {MANIFEST} in it")
    plain = plain_json.read(folder / MANIFEST, BundleError, 64 * files.MB)
    try:
        kit = fields.build(_Kit, plain)
    except ValueError as error:
        raise BundleError(f"{folder} is not a conformance kit of schema {SCHEMA}: {error}") from error
    if kit.schema != SCHEMA:
        raise BundleError(f"{folder} is not a conformance kit of schema {SCHEMA}, but of {kit.schema}; write it again")
    if what := kit.environment.get("emulated"):
        raise BundleError(f"{folder} was taken on an emulated processor ({what}); take it on the device itself")
    for file in kit.files:
        if not manifest.plain_name(file):
            raise BundleError(f"{folder}: {MANIFEST} names {file!r}, which lies outside the kit")
    return kit


def _check_one(folder: Path, graph_now: str | None) -> KitResult:
    name = folder.name
    try:
        facts = manifest.check(plain_json.read(folder / BUNDLE, BundleError, 64 * files.MB), str(folder / BUNDLE))
        result = fields.build(_Result, plain_json.read(folder / RESULT, BundleError))
        if result.error is not None:
            return KitResult(name, REFUSED, result.error, result.backend, {})
        outputs = arrays.read_npz(folder / OUTPUTS, BundleError)
        ran = _as_bundle(folder, facts, result.artifact)
        proofs.refuse_idle(ran.cases, ran)
        parity = _replay(ran, outputs, result.backend)
        percentiles = _percentiles(result.samples_ms)
    except InconclusiveError as error:
        return KitResult(name, FAILS, str(error), result.backend, {})
    except (BundleError, UnknownNameError, ValueError) as error:
        return KitResult(name, ALTERED, f"its data cannot be read: {error}", "", {})
    backend, graph = result.backend, _graph(fields.plain(facts))
    if percentiles != result.percentiles or parity.to_dict() != result.parity:
        return KitResult(name, ALTERED, "its figures do not follow from its raw data", backend, percentiles)
    if graph_now is not None and graph_now != graph:
        sentence = f"the graph has changed: {graph[:12]}… ran, the bundle now holds {graph_now[:12]}…; run it again"
        return KitResult(name, STALE, sentence, backend, percentiles)
    return KitResult(name, HOLDS if parity.ok else FAILS, parity.summary(), backend, percentiles)


def _as_bundle(folder: Path, facts: manifest.ManifestRecord, artifact: str) -> Bundle:
    """Rebuild the bundle that ran, as far as the kit holds it: no model, and nothing that was measured elsewhere."""
    found = reader.cases_of(folder / CASES, facts)
    cases.fit(folder / CASES, found, facts.cases, facts.inputs, facts.outputs)
    ports = facts.inputs, facts.outputs, facts.dynamic_dims
    made = Bundle(folder, facts.subject.name, *ports, reader.artifacts(folder, facts), found, fields.plain(facts))
    return _fitting(made.only(made.artifact(artifact)))


def _fitting(whole: Bundle) -> Bundle:
    """Give the bundle of one artifact with the cases that it takes."""
    return replace(whole, cases=narrowed(whole, whole.artifacts[0]).fitting(whole.cases)[0])


def executed_on(kits: Iterable[Path]) -> str:
    """Write the README's table of machines as Markdown; where there are no kits it says so.

    >>> executed_on([])
    'Not yet run on any GPU: statements about GPUs are compiled (E1), not run.'
    """
    lines = []
    for kit in kits:
        said, findings = _read(kit), check_kit(kit)
        counts = {status: sum(f.status == status for f in findings) for status in (HOLDS, FAILS, REFUSED, ALTERED)}
        unknown = "an unknown machine"
        where = f"{said.gpu.get('gpu', unknown)} (SM{said.gpu.get('sm', '?')})" if said.gpu else None
        where = where or str(said.environment.get("processor", unknown))
        what = next((f.backend for f in findings if f.backend), said.backend)
        lines.append(f"| {where} | {what} | " + " | ".join(str(count) for count in counts.values()) + " |")
    if not lines:
        return "Not yet run on any GPU: statements about GPUs are compiled (E1), not run."
    head = ["| machine | backend | holds | fails | refused | altered |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *lines])
