"""``verify`` and ``conform``: the device side of the command line, without torch or onnx."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.bundle import signing
from attn_export.deploy_tests import shapes
from attn_export.deploy_tests.backends import missing as missing_here
from attn_export.deploy_tests.data import images, user_data
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.parity import verify as proofs
from attn_export.errors import BackendMissingError, BundleError, GateError, UsageError
from attn_export.tools import console
from attn_export.untrusted import text


@dataclass(frozen=True)
class Held:
    """What the user of this machine holds a bundle to, whatever it says itself.

    Attributes:
        expect: its digest.
        signers: a file of those who may have signed it.
        tolerance: the largest k that passes.
        snr: the least signal-to-noise ratio that passes, in dB.
    """

    expect: str | None = None
    signers: Path | None = None
    tolerance: float | None = None
    snr: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("tolerance", self.tolerance), ("snr", self.snr)):
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{name} wants a finite number above zero; got {value:g}")

    def check(self, whole: bundle.Bundle) -> dict[str, Any]:
        """What is known of where the bundle is from.

        Raises:
            GateError: its digest is another, or none of the signers signed it.
            UsageError: what is expected is no digest.
        """
        expected = bundle.parse_digest(self.expect) if self.expect is not None else whole.digest
        if expected != whole.digest:
            raise GateError(f"{whole.path} is another bundle: expected {expected}, got {whole.digest}")
        by = signing.signer(whole, self.signers) if self.signers is not None else None
        return {"digest": whole.digest, "signed_by": by}

    def summary(self, whole: bundle.Bundle) -> str:
        """What is asked for in place of the bundle's own limits; empty where nothing is."""
        own = f"k <= {whole.tolerance:g}" if whole.snr is None else f"{whole.snr:g} dB"
        if self.snr is not None:
            return f"held to a signal-to-noise ratio of {self.snr:g} dB, as asked here; the bundle says {own}"
        if self.tolerance is not None:
            return f"held to k <= {self.tolerance:g}, as asked here; the bundle says {own}"
        return ""


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
    held: Held | None = None,
) -> None:
    """Prove a bundle on each backend, on its own cases and on ``data``; a missing backend never counts as passed."""
    held = held or Held()
    whole = bundle.read(path)
    source = _source(whole, held, as_json)
    if said := held.summary(whole):
        _say(as_json, said)
    for name in bundle.idle(whole.cases, whole.outputs):
        _say(as_json, f"warning: the truth of {text.one_line(name)} is zero in every case, so nothing is known of it")
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
        limits: dict[str, Any] = {"atol": atol, "rtol": rtol, "tolerance": held.tolerance, "snr": held.snr}
        parity = proofs.verify(whole, name, threads=threads, ranges=prepared, **limits)
        rows.append({"backend": name, "parity": parity.to_dict(), "sentence": parity.summary()})
        _say(as_json, f"{name}: {parity.summary()}")
        for level, cases in more.items():
            parity = proofs.verify(whole, name, threads=threads, cases=cases, ranges=prepared, **limits)
            row = {"backend": name, "parity": parity.to_dict(), "sentence": parity.summary()}
            rows.append({**row, "level": level, "against": user_data.SENTENCES[level]})
            _say(as_json, f"{name}, {user_data.SENTENCES[level]}: {parity.summary()}")
    if as_json:
        asked = {"tolerance": held.tolerance, "snr": held.snr}
        content = {"bundle": str(path), **source, "asked": asked, "environment": environment.describe(), "runs": rows}
        console.emit(content)
    if failed := [row["backend"] for row in rows if "parity" in row and not row["parity"]["ok"]]:
        raise GateError(f"{path} is not proven on {', '.join(dict.fromkeys(failed))}")
    if lacking := [name for name in missing if name in required]:
        raise BackendMissingError(f"required, but not available here: {', '.join(lacking)}; nothing is proven on it")
    if len(missing) == len(rows):
        raise BackendMissingError(f"{path} was proven on nothing: {', '.join(missing)} not available here")


def _source(whole: bundle.Bundle, held: Held, as_json: bool) -> dict[str, Any]:
    source = held.check(whole)
    if held.expect is not None:
        _say(as_json, f"its digest is {whole.digest}, as expected")
    if source["signed_by"] is not None:
        _say(as_json, f"signed by {source['signed_by']} for {signing.NAMESPACE}")
    return source


def _own_data(
    whole: bundle.Bundle, path: Path | None, preprocess: str | None, as_json: bool
) -> Mapping[str, Sequence[bundle.Case]]:
    if path is None:
        return {}
    evaluate: user_data.Evaluate | None = None
    if all(importlib.util.find_spec(name) for name in ("torch", "onnx")):
        from attn_export.pipeline import float64

        evaluate = float64.evaluate
    found = user_data.read(whole, path, images.parse_preprocess(preprocess) if preprocess else None, evaluate=evaluate)
    if found.preprocess:
        _say(as_json, f"images prepared as {found.preprocess.summary()}")
    if found.left:
        _say(as_json, f"{found.left} files of {path} were left out")
    return found.cases


def compile_only(path: Path, sm: str, as_json: bool, ranges: tuple[str, ...] = (), held: Held | None = None) -> None:
    """Build a bundle's graph with TensorRT for RTX without a GPU: evidence of level E1, kept in its report."""
    from attn_export.deploy_tests.backends.tensorrt.evidence import compile_only as build
    from attn_export.pipeline.report import keep_evidence

    whole = bundle.read(path)
    source = _source(whole, held or Held(), as_json)
    bundle.may_write(path)
    evidence = build(whole.model, sm, shapes=shapes.asked(whole, ranges, cases=False))
    digest = keep_evidence.keep_evidence(whole, evidence)
    if as_json:
        console.emit({"bundle": str(path), **source, "digest_with_evidence": digest, **evidence.to_dict()})
        return
    console.say(f"{path}: {evidence.summary()}")
    plan = evidence.plan
    kinds = ", ".join(f"{count} {kind}" for kind, count in plan.dtypes.items())
    console.say(f"level {evidence.level}: {len(plan.kernels)} kernels ({kinds}), {len(plan.attention)} fused attention")
    console.say(f"kept in its report, so its digest is now {digest}" if digest else f"not kept: {path} is signed")


def conform(paths: tuple[Path, ...], out: Path | None, check: Path | None, backend: str, as_json: bool) -> None:
    """Write a conformance kit, or recompute one."""
    from attn_export.deploy_tests.conformance import kit as kits

    if (out is None) == (check is None):
        raise UsageError("conform wants --out DIR on a machine with a GPU, or --check DIR on any")
    if out is not None:
        findings = kits.write_kit(paths, out, backend=backend)
    else:
        assert check is not None
        findings = kits.check_kit(check, paths)
        if not findings:
            raise BundleError(f"{check} is no kit: it holds no runs; `attn-export conform BUNDLE --out DIR` writes one")
    if as_json:
        console.emit([asdict(finding) for finding in findings])
    else:
        console.say(*(f"{finding.name}: {finding.status}: {finding.sentence}" for finding in findings))
    if wrong := [finding.name for finding in findings if finding.status != "HOLDS"]:
        raise GateError(f"the kit does not hold for {', '.join(wrong)}")


def _say(as_json: bool, line: str) -> None:
    if not as_json:
        console.say(line)
