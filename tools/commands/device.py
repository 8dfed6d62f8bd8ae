"""``verify`` and ``conform``: the device side of the command line, without torch or onnx."""

from __future__ import annotations

import importlib.util
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export import bundle
from attn_export.bundle import signing
from attn_export.deploy_tests import backends, open_bundle
from attn_export.deploy_tests import shapes as shape_ranges
from attn_export.deploy_tests.backend import CompileOptions, Traits
from attn_export.deploy_tests.data import images, user_data
from attn_export.deploy_tests.identity import identify
from attn_export.deploy_tests.machine import conditions, environment
from attn_export.deploy_tests.machine.emulated import emulated
from attn_export.deploy_tests.parity import verify as proofs
from attn_export.errors import AttnExportError, BackendError, BackendMissingError, BundleError, GateError, UsageError
from attn_export.tools import console
from attn_export.tools.commands import stored
from attn_export.untrusted import text

if TYPE_CHECKING:
    from attn_export.deploy_tests.conformance.kit import KitResult


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
                raise UsageError(f"--{name}: expected a finite number above zero, got {value:g}")

    def check(self, whole: bundle.Bundle) -> dict[str, Any]:
        """Say what is known of where the bundle is from.

        Raises:
            GateError: its digest is another, or none of the signers signed it.
            UsageError: what is expected is not a digest.
        """
        expected = bundle.parse_digest(self.expect) if self.expect is not None else whole.digest
        if expected != whole.digest:
            raise GateError(f"{whole.path} is a different bundle: expected {expected}, got {whole.digest}")
        by = signing.signer(whole, self.signers) if self.signers is not None else None
        return {"digest": whole.digest, "signed_by": by}

    def summary(self, whole: bundle.Bundle) -> str:
        """Say what is asked for in place of the bundle's own limits; empty where nothing is."""
        limits = (
            f"k <= {one.normalized_limit:g}" if one.snr_db_limit is None else f"{one.snr_db_limit:g} dB"
            for one in whole.artifacts
        )
        own = " or ".join(dict.fromkeys(limits))
        if self.snr is not None:
            return f"required signal-to-noise ratio: {self.snr:g} dB, from the command line; the bundle says {own}"
        if self.tolerance is not None:
            return f"required: k <= {self.tolerance:g}, from the command line; the bundle says {own}"
        return ""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What was typed."""

    paths: tuple[Path, ...]
    backends: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    artifact: str | None = None
    shapes: tuple[str, ...] = ()
    data: Path | None = None
    preprocess: images.Preprocess | None = None
    fresh: int = 0
    seed: int | None = None
    atol: float | None = None
    rtol: float | None = None
    held: Held = field(default_factory=Held)
    threads: int = 1
    store: Path | None = None


def verify(asked: VerifyOptions, *, as_json: bool) -> None:
    """Prove bundles on each backend, on their own cases and on ``data``; a missing backend never counts as passed.

    Of several, every one is tried, once all of them are there.

    Raises:
        BundleError: one of several is no bundle at all.
        SystemExit: of several some were not proven; 1 where a proof failed, else what the first of them ended with.
    """
    if len(asked.paths) > 1 and asked.held.expect is not None:
        raise UsageError("--expect: expected one bundle, as a digest is of one; verify them one by one")
    stored.prepared(asked.store)
    absent = [str(path) for path in asked.paths if not (path / bundle.MANIFEST).is_file()]
    if len(asked.paths) > 1 and absent:
        raise BundleError(
            f"expected bundles, folders with a {bundle.MANIFEST}; got {text.few(absent, 3)[:600]}; nothing was verified"
        )
    if (what := emulated()) and not as_json:
        console.say(f"emulated processor: {what}; what is proven here is arithmetic, and no time")
    if len(asked.paths) > 1:
        _verify_each(asked, as_json=as_json)
        return
    content, failure = _verify(asked.paths[0], asked, as_json=as_json)
    console.result(content, as_json=as_json)
    if failure:
        raise failure


def _verify_each(asked: VerifyOptions, *, as_json: bool) -> None:
    """Prove every bundle, whatever becomes of the others."""
    contents: list[dict[str, Any]] = []
    codes: list[int] = []
    for path in asked.paths:
        if not as_json:
            console.say(f"{path}:")
        try:
            content, failure = _verify(path, asked, as_json=as_json)
        except UsageError:
            raise
        except AttnExportError as error:
            content, failure = {"bundle": str(path)}, error
        if failure:
            codes.append(failure.exit_code)
            content |= {"error": str(failure), "kind": type(failure).__name__, "exit_code": failure.exit_code}
            console.say(f"error: {failure}", err=True)
        contents.append(content)
    console.result({"bundles": contents}, as_json=as_json)
    if codes:
        console.say(f"error: {len(codes)} of {len(contents)} bundles were not proven", err=True)
        raise SystemExit(GateError.exit_code if GateError.exit_code in codes else codes[0])


def _verify(path: Path, asked: VerifyOptions, *, as_json: bool) -> tuple[dict[str, Any], AttnExportError | None]:
    """Prove one bundle: what is said of it, and why it does not count as proven."""
    held, required = asked.held, asked.require
    whole = bundle.read(path)
    if asked.artifact is not None:
        whole = whole.only(whole.artifact(asked.artifact))
    source = _source(whole, held, as_json=as_json)
    if said := held.summary(whole):
        _say(said, as_json=as_json)
    for name in bundle.idle(whole.cases, whole.outputs):
        _say(
            f"warning: the reference of {text.one_line(name)} is zero in every case, so this says nothing about it",
            as_json=as_json,
        )
    chosen = tuple(dict.fromkeys((*required, *asked.backends))) or (backends.DEFAULT,)
    prepared = shape_ranges.asked(whole, asked.shapes, chosen)
    more = {**_own_data(whole, asked, as_json=as_json), **_fresh(whole, asked, as_json=as_json)}
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    before = conditions.read()
    for name in chosen:
        if why := open_bundle.missing(whole, name):
            missing.append(name)
            rows.append({"backend": name, "missing": why})
            _say(f"{name}: not run: {why}", as_json=as_json)
            continue
        limits: dict[str, Any] = {"atol": asked.atol, "rtol": asked.rtol, "tolerance": held.tolerance, "snr": held.snr}
        for artifact in open_bundle.accepted(whole, name):
            called = name if len(whole.artifacts) == 1 else f"{name}, {artifact.summary()}"
            limits |= {"threads": asked.threads, "ranges": prepared, "artifact": artifact.name}
            parity = proofs.verify(whole, name, **limits)
            identity = {**identify(name).to_dict(), "artifact": artifact.name}
            rows.append({**identity, "parity": parity.to_dict(), "sentence": parity.summary()})
            _say(f"{called}: {parity.summary()}", as_json=as_json)
            for level, cases in more.items():
                if artifact.meaning and level == user_data.FRESH:
                    why = "drawn inputs lie beyond the ranges that it was calibrated to"
                    _say(f"{called}: not held to {user_data.SENTENCES[level]}: {why}", as_json=as_json)
                    continue
                parity = proofs.verify(whole, name, cases=cases, **limits)
                row = {**identity, "parity": parity.to_dict(), "sentence": parity.summary()}
                rows.append({**row, "level": level, "against": user_data.SENTENCES[level]})
                _say(f"{called}, {user_data.SENTENCES[level]}: {parity.summary()}", as_json=as_json)
    limits = {"tolerance": held.tolerance, "snr": held.snr}
    machine = environment.describe(*chosen)
    around = {"before": before, "after": conditions.read()}
    content = {
        "bundle": str(path),
        **source,
        "asked": limits,
        "environment": machine,
        "conditions": around,
        "runs": rows,
    }
    _keep(whole, asked, content)
    if failed := [row["backend"] for row in rows if "parity" in row and not row["parity"]["ok"]]:
        return content, GateError(f"{path} failed verification on {', '.join(dict.fromkeys(failed))}")
    if lacking := [name for name in missing if name in required]:
        why = f"required, but not available here: {', '.join(lacking)}; nothing was verified on it"
        return content, BackendMissingError(why)
    if len(missing) == len(rows):
        return content, BackendMissingError(f"{path} was not verified: {', '.join(missing)} not available here")
    return content, None


def _keep(whole: bundle.Bundle, asked: VerifyOptions, content: Mapping[str, Any]) -> None:
    """Put what was proven, or failed to be, into the store."""
    runs = [row for row in content["runs"] if "parity" in row]
    subjects = [
        stored.subject(
            whole, whole.artifact(row["artifact"]), identify(row["backend"]).to_dict(), threads=asked.threads
        )
        for row in runs
    ]
    if runs:
        stored.keep(stored.prepared(asked.store), "verify", subjects, {**content, "runs": runs})


def _source(whole: bundle.Bundle, held: Held, *, as_json: bool) -> dict[str, Any]:
    source = held.check(whole)
    if held.expect is not None:
        _say(f"its digest is {whole.digest}, as expected", as_json=as_json)
    if source["signed_by"] is not None:
        _say(f"signed by {source['signed_by']} for {signing.NAMESPACE}", as_json=as_json)
    return source


def _own_data(whole: bundle.Bundle, asked: VerifyOptions, *, as_json: bool) -> Mapping[str, Sequence[bundle.Case]]:
    path = asked.data
    if path is None:
        return {}
    evaluate: user_data.Evaluate | None = None
    if all(importlib.util.find_spec(name) for name in ("torch", "onnx")):
        from attn_export.pipeline import float64

        evaluate = partial(float64.evaluate, selections=whole.selections)
    found = user_data.read(whole, path, asked.preprocess, evaluate=evaluate)
    if found.preprocess:
        _say(f"images prepared as {found.preprocess.summary()}", as_json=as_json)
    if found.left:
        _say(f"{found.left} files of {path} were skipped", as_json=as_json)
    return found.cases


def _fresh(whole: bundle.Bundle, asked: VerifyOptions, *, as_json: bool) -> Mapping[str, Sequence[bundle.Case]]:
    """Draw cases that the bundle has never seen; the seed is said, so that they can be drawn again."""
    if not asked.fresh:
        return {}
    if missing := [name for name in ("torch", "onnx") if importlib.util.find_spec(name) is None]:
        raise BackendMissingError(
            f"--fresh evaluates the original model in float64, which takes {' and '.join(missing)}:"
            " pip install 'attn-export[export]'"
        )
    from attn_export.pipeline import fresh

    seed = secrets.randbelow(1 << 32) if asked.seed is None else asked.seed
    _say(f"fresh inputs: {asked.fresh}, --seed {seed}", as_json=as_json)
    made = fresh.cases(whole, asked.fresh, seed, lambda text: _say(f"warning: {text}", as_json=as_json))
    return {user_data.FRESH: made}


@dataclass(frozen=True, kw_only=True)
class CompileRequest:
    """What was typed.

    Attributes:
        path: the bundle's folder.
        target: compiler and chip.
        artifact: name of the artifact to compile; the first that the compiler takes unless given.
        precision: that a float32 model is brought to; empty for what is usual.
        shapes: ranges of shapes as typed.
        simulate: run the cases of the compiled sizes on the maker's simulator.
        install: make the environment that the compiler needs, should it be missing.
        held: what the bundle is held to.
    """

    path: Path
    target: str
    artifact: str | None = None
    precision: str = ""
    shapes: tuple[str, ...] = ()
    simulate: bool = False
    install: bool = False
    held: Held = field(default_factory=Held)


def compile_(asked: CompileRequest, *, as_json: bool) -> None:
    """Build a bundle's graph for a chip that is not here: evidence of level E1, kept in its report."""
    from attn_export.deploy_tests.parity import simulated
    from attn_export.pipeline.report import keep_evidence

    path = asked.path
    whole = bundle.read(path)
    source = _source(whole, asked.held, as_json=as_json)
    bundle.may_write(path)
    name, chip = backends.compile_target(asked.target)
    able = backends.traits(name)
    _able(name, able, asked)
    _installed(name, asked, as_json=as_json)
    if not open_bundle.accepted(whole, name):
        kinds, there = " or ".join(able.accepts), ", ".join(one.summary() for one in whole.artifacts)
        raise BackendError(f"{name} compiles artifacts of kind {kinds}, and {path} holds {there}; write it with --to")
    model = open_bundle.chosen(whole, name, asked.artifact or _already(whole, name, able, asked.precision))
    precision = "" if able.takes_int8 and model.precision == asked.precision else asked.precision
    ranges = shape_ranges.asked(whole, asked.shapes, cases=False)
    usual = {port: array.shape for port, array in whole.cases[0].inputs.items()}
    usual |= {port: shapes.opt for port, shapes in ranges.items()}
    cases = simulated.fitting(whole.cases, usual, model.meaning)
    feeds = tuple({port.name: case.inputs[port.name] for port in whole.inputs} for case in cases)
    wanted = CompileOptions(chip, ranges, precision, feeds, feeds if asked.simulate else ())
    evidence = backends.compile_only(name, model.path, wanted)
    bundle.unchanged(whole)  # the compiler has read the model by itself
    verdict = None
    if evidence.simulated and model.meaning:
        verdict = simulated.judge_int8(cases, evidence.simulated, whole.outputs)
    elif evidence.simulated:
        verdict = simulated.judge(cases, evidence.simulated)
    digest = keep_evidence.keep_evidence(whole, evidence, verdict)
    if as_json:
        judged = {} if verdict is None else {"simulated": verdict.to_dict()}
        console.emit({"bundle": str(path), **source, "digest_with_evidence": digest, **evidence.to_dict(), **judged})
        return
    console.say(f"{path}: {evidence.summary()}", f"level {evidence.level}: {evidence.details()}")
    if verdict is not None:
        console.say(verdict.summary())
    elif asked.simulate:
        why = evidence.to_dict().get("warnings") or ["no case of the bundle has the compiled sizes"]
        console.say(f"not simulated: {'; '.join(why)}")
    console.say(f"kept in its report, so its digest is now {digest}" if digest else f"not kept: {path} is signed")


def _already(whole: bundle.Bundle, name: str, able: Traits, precision: str) -> str | None:
    """Name the artifact that is in the wanted precision already, where the compiler takes such; None for its usual."""
    wanted = precision or next(iter(able.precisions), "")
    found = (one.name for one in open_bundle.accepted(whole, name) if one.precision == wanted == "int8")
    return next(found, None) if able.takes_int8 else None


def _able(name: str, able: Traits, asked: CompileRequest) -> None:
    if asked.precision and asked.precision not in able.precisions:
        known = " or ".join(able.precisions) or "none: it takes a model as it is"
        raise UsageError(f"--precision {asked.precision}: {name} brings a float32 model to {known}")
    if asked.simulate and not able.simulates:
        raise UsageError(f"--simulate: no simulator comes with {name}; leave it out")


def _installed(name: str, asked: CompileRequest, *, as_json: bool) -> None:
    """Make a compiler's environment where that is asked for, after saying what goes into it."""
    if (why := backends.missing_compiler(name)) is None:
        return
    plan = backends.installation(name)
    if plan is None:
        raise BackendMissingError(why)
    if not asked.install:
        raise BackendMissingError(f"{why}; with --install this command makes it: {plan}")
    _say(f"installing: {plan}", as_json=as_json)
    backends.install(name)


def write_kit(paths: tuple[Path, ...], output: Path, *, backend: str | None, as_json: bool) -> None:
    """Run bundles on this machine, on a GPU unless told otherwise, and keep everything that was measured."""
    from attn_export.deploy_tests.conformance import kit as kits

    _results(kits.write_kit(paths, output, backend=backend or backends.with_engines()), as_json=as_json)


def check_kit(kit: Path, paths: tuple[Path, ...], *, as_json: bool) -> None:
    """Recompute a kit's figures from its raw data.

    Raises:
        BundleError: it is not a kit.
        GateError: something in it does not hold.
    """
    from attn_export.deploy_tests.conformance import kit as kits

    found = kits.check_kit(kit, paths)
    if not found:
        raise BundleError(f"{kit} is not a kit (no runs); `attn-export conform BUNDLE -o KIT` writes one")
    _results(found, as_json=as_json)


def _results(found: Sequence[KitResult], *, as_json: bool) -> None:
    if as_json:
        console.emit({"results": [asdict(result) for result in found]})
    else:
        console.say(*(f"{result.name}: {result.status}: {result.sentence}" for result in found))
    if wrong := [result.name for result in found if result.status != "HOLDS"]:
        raise GateError(f"the kit's figures do not follow from its raw data for {', '.join(wrong)}")


def _say(line: str, *, as_json: bool) -> None:
    if not as_json:
        console.say(line)
