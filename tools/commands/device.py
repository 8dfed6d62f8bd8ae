"""``verify`` and ``conform``: the device side of the command line, without torch or onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.deploy_tests import environment, shapes
from attn_export.deploy_tests import verify as proofs
from attn_export.deploy_tests.backends import missing as missing_here
from attn_export.errors import BackendMissingError, BundleError, GateError, UsageError
from attn_export.export import images
from attn_export.tools import console
from attn_export.tools.device import own_data


def verify(
    path: Path,
    backends: tuple[str, ...],
    required: tuple[str, ...],
    atol: float | None,
    rtol: float | None,
    threads: int,
    as_json: bool,
    data: Path | None = None,
    preprocess: str | None = None,
    ranges: tuple[str, ...] = (),
) -> None:
    """Prove a bundle on each backend, on its own cases and on ``data``; a missing backend never counts as passed."""
    whole = bundle.read(path)
    chosen = tuple(dict.fromkeys((*required, *backends))) or ("onnxruntime",)
    prepared = shapes.asked(whole, ranges, chosen)
    more = _own_data(whole, data, preprocess, as_json)
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for name in chosen:
        if why := missing_here(name):
            missing.append(name)
            rows.append({"backend": name, "missing": why})
            _say(as_json, f"{name}: not run: {why}")
            continue
        parity = proofs.verify(whole, name, threads=threads, atol=atol, rtol=rtol, ranges=prepared)
        rows.append({"backend": name, "parity": parity.as_json(), "sentence": parity.sentence()})
        _say(as_json, f"{name}: {parity.sentence()}")
        for level, cases in more.items():
            parity = proofs.verify(whole, name, threads=threads, atol=atol, rtol=rtol, cases=cases, ranges=prepared)
            row = {"backend": name, "parity": parity.as_json(), "sentence": parity.sentence()}
            rows.append({**row, "level": level, "against": own_data.SENTENCES[level]})
            _say(as_json, f"{name}, {own_data.SENTENCES[level]}: {parity.sentence()}")
    if as_json:
        console.emit({"bundle": str(path), "environment": environment.describe(), "runs": rows})
    if failed := [row["backend"] for row in rows if "parity" in row and not row["parity"]["ok"]]:
        raise GateError(f"{path} is not proven on {', '.join(dict.fromkeys(failed))}")
    if lacking := [name for name in missing if name in required]:
        raise BackendMissingError(f"required, but not available here: {', '.join(lacking)}; nothing is proven on it")
    if len(missing) == len(rows):
        raise BackendMissingError(f"{path} was proven on nothing: {', '.join(missing)} not available here")


def _own_data(
    whole: bundle.Bundle, path: Path | None, preprocess: str | None, as_json: bool
) -> Mapping[str, Sequence[bundle.Case]]:
    if path is None:
        return {}
    found = own_data.read(whole, path, images.parse(preprocess) if preprocess else None)
    if found.preprocess:
        _say(as_json, f"images prepared as {found.preprocess.sentence()}")
    if found.left:
        _say(as_json, f"{found.left} files of {path} were left out")
    return found.cases


def compile_only(path: Path, sm: str, as_json: bool, ranges: tuple[str, ...] = ()) -> None:
    """Build a bundle's graph with TensorRT for RTX without a GPU: evidence of level E1, kept in its report."""
    from attn_export.deploy_tests.backends.tensorrt.evidence import compile_only as build
    from attn_export.tools.report import compiled

    whole = bundle.read(path)
    evidence = build(whole.model, sm, shapes=shapes.asked(whole, ranges, cases=False))
    compiled.keep(whole, evidence)
    if as_json:
        console.emit({"bundle": str(path), **evidence.as_json()})
        return
    console.say(f"{path}: {evidence.sentence()}")
    plan = evidence.plan
    kinds = ", ".join(f"{count} {kind}" for kind, count in plan.dtypes.items())
    console.say(f"level {evidence.level}: {len(plan.kernels)} kernels ({kinds}), {len(plan.attention)} fused attention")


def conform(paths: tuple[Path, ...], out: Path | None, check: Path | None, backend: str, as_json: bool) -> None:
    """Write a conformance kit, or recompute one."""
    from attn_export.tools.device import conform as kits

    if (out is None) == (check is None):
        raise UsageError("conform wants --out DIR on a machine with a GPU, or --check DIR on any")
    if out is not None:
        findings = kits.conform(paths, out, backend=backend)
    else:
        assert check is not None
        findings = kits.check(check, paths)
        if not findings:
            raise BundleError(f"{check} is no kit: it holds no runs; `attn-export conform BUNDLE --out DIR` writes one")
    if as_json:
        console.emit([asdict(finding) for finding in findings])
    else:
        console.say(*(f"{finding.name}: {finding.status}: {finding.sentence}" for finding in findings))
    if wrong := [finding.name for finding in findings if finding.status != "HOLDS"]:
        raise GateError(f"the kit does not hold for {', '.join(wrong)}")


def _say(as_json: bool, text: str) -> None:
    if not as_json:
        console.say(text)
