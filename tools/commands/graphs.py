"""``fuse`` and ``lint``: commands on bare ONNX files."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from attn_export import bundle
from attn_export.deploy_tests import backends
from attn_export.deploy_tests import shapes as ranges
from attn_export.deploy_tests.data.images import Preprocess
from attn_export.deploy_tests.data.inputs import read_inputs
from attn_export.errors import GateError, LoadError, UsageError, WriteError
from attn_export.export.onnx import contract, weights
from attn_export.export.onnx.normalise import normalise, overridable
from attn_export.export.onnx.read import parse, read_model
from attn_export.export.onnx.save import save
from attn_export.pipeline import lint as linting
from attn_export.pipeline import lint_form, manifest
from attn_export.pipeline.options import BuildOptions
from attn_export.reparam.fuse_onnx import fuse_graph
from attn_export.reparam.result import Fusion, Precision
from attn_export.tools import console, options
from attn_export.tools.commands import output as places
from attn_export.untrusted.text import few


def fuse(file: Path, output: Path, asked: BuildOptions, *, as_json: bool) -> None:
    """Collapse what pays in an ONNX file; write the result only with its certificate."""
    # External data stays where it is until it is needed: a model beyond 2 GB is no message that could be copied.
    made = normalise(read_model(file, weights=False), file.parent)
    model = made.model
    for note in filter(None, (*made.notes, overridable(model), weights.check(model))):
        console.warn(note)
    place = places.file(output, places.is_onnx, "an ONNX file")
    if place == file.resolve():
        console.say(f"note: {file} will be replaced by its fused version", err=True)
    fusion = fuse_graph(
        model,
        fuse_cost=asked.fuse_cost,
        keep_branches=asked.keep_branches,
        border_maps=asked.border_maps,
        folder=file.parent,
        quantization_error=asked.weight_error,
    )
    certified(fusion, str(file), asked)
    _write(fusion.model, place, file.parent)
    told(fusion, output, asked, as_json=as_json)


def certified(fusion: Fusion[Any], what: str, asked: BuildOptions) -> None:
    """Let nothing be written whose certificate does not hold, and say what was rolled back.

    Raises:
        GateError: it does not hold, or regions were rolled back and that was not to be.
    """
    if not fusion.certificate.ok:
        raise GateError(f"fusing {what} changed it: worst error {fusion.certificate.worst:.3g}; nothing was written")
    if fusion.certificate.left_out:
        console.warn(fusion.certificate.left_out)
    for refusal in fusion.rolled_back:
        console.warn(str(refusal))
    if fusion.rolled_back and asked.fail_on_rollback:
        count = len(fusion.rolled_back)
        raise GateError(f"{count} regions were rolled back, and --fail-on-rollback is set; nothing was written")


def told(fusion: Fusion[Any], output: Path, asked: BuildOptions, *, as_json: bool) -> None:
    """Print the account: every region, what was not fused, and the certificate."""
    if as_json:
        console.emit(
            {"output": str(output), **manifest.fusion(fusion, asked.fuse_cost, asked.keep_branches, asked.border_maps)}
        )
    else:
        console.say(*_account(fusion, output))


def _write(model: onnx.ModelProto, output: Path, folder: Path) -> None:
    """Write a model whole or not at all; its weights in a file beside it where they are too large for one message.

    Raises:
        WriteError: it cannot be written, or the file for the weights is somebody else's.
    """
    mine = {output.name, *_weights_of(output)}
    try:
        onnx.load_external_data_for_model(model, str(folder))
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
            save(model, Path(scratch) / output.name)
            parts = sorted(Path(scratch).iterdir(), key=lambda path: path.name == output.name)
            for part in parts:
                if part.name not in mine and os.path.lexists(output.with_name(part.name)):
                    raise WriteError(
                        f"the weights would go to {output.with_name(part.name)}, which already exists and is not"
                        f" the old {output.name}'s; nothing was written: choose another name for -o"
                    )
            for part in parts:
                part.replace(output.with_name(part.name))  # the model last: it names the other
    except OSError as error:
        raise WriteError(f"cannot write {output}: {error.strerror or error}") from error


def _weights_of(model: Path) -> set[str]:
    """List the files beside an older model that hold its weights."""
    if not model.exists():
        return set()
    tensors = parse(model).graph.initializer
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


def _account(fusion: Fusion[Any], output: Path) -> list[str]:
    lines = [f"{site.name}: {site.pattern} → {', '.join(site.after)}{_loss(site.precision)}" for site in fusion.sites]
    lines += [f"not fused: {refusal}" for refusal in fusion.refusals]
    certificate = fusion.certificate
    lines.append(
        f"{output}: {len(fusion.sites)} regions fused, worst error {certificate.worst:.1e} in float64"
        f" (limit {certificate.bound:g})"
    )
    return lines


def _loss(loss: Precision | None) -> str:
    """Say what rounding the weights of a site loses, before and after."""
    if loss is None:
        return ""
    return (
        f" [weight error int8 {loss.int8_before:.2%} → {loss.int8_after:.2%},"
        f" fp16 {loss.fp16_before:.1e} → {loss.fp16_after:.1e}]"
    )


def _compiled(
    file: Path, path: Path, graph: onnx.ModelProto, target: str, *, compiler: str, chip: str
) -> list[linting.LintFinding]:
    """Ask rules and parser about a model in the form for a compiler, with the ranges of its open sizes."""
    with tempfile.TemporaryDirectory() as scratch:
        if file.is_dir():
            form = lint_form.Form(path, ranges.of(bundle.read(file)))
        else:
            form = lint_form.form(path, graph, Path(scratch))
        for note in form.notes:
            console.warn(note)
        for name, shapes in form.shapes.items():
            sizes = ", ".join("x".join(map(str, shape)) for shape in (shapes.min, shapes.opt, shapes.max))
            console.say(f"shapes of {name}: {sizes} (smallest, usual, largest)", err=True)
        found = linting.by_rules(graph if form.model is None else form.model, target)
        return found + linting.by_parser(form.path, compiler, device=chip, shapes=form.shapes)


#: The format of what is linted, and the level of a node that nothing is known of.
ONNX, UNKNOWN = "onnx", "unknown"
#: Not a target but what many have in common: they compute in float16 throughout.
FLOAT16 = "fp16"


def _float16(file: Path, own: Path | None, prepared: Preprocess | None, *, as_json: bool) -> None:
    """List what float16 breaks, by a bundle's own cases or by the user's data."""
    if own is None and not file.is_dir():
        raise UsageError(
            f"--target {FLOAT16} goes by the ranges of inputs: expected a bundle, whose cases hold some, got {file};"
            " or give --data"
        )
    whole = bundle.read(file) if file.is_dir() else None
    path = whole.model if whole else file
    model = read_model(path)
    if own is None:
        assert whole is not None
        feeds = [case.inputs for case in whole.cases]
    else:
        if not own.exists():
            raise LoadError(f"{own} does not exist; expected a .npy, .npz or image file, or a folder of such")
        found = read_inputs(own, whole.inputs if whole else contract.of(model).inputs, prepared)
        feeds = list(found.feeds.values())
        if found.left:
            console.warn(f"{found.left} files of {own} were skipped")
    findings, confirmed = linting.by_ranges(model, feeds)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        console.emit({"model": str(path), "target": FLOAT16, "findings": rows, "confirmed": asdict(confirmed)})
        return
    console.say(*map(str, findings))
    console.say(confirmed.summary())
    console.say(f"{path}: {len(findings)} findings for {FLOAT16}, by {len(feeds)} inputs{f' of {own}' if own else ''}")


def lint(file: Path, place: str, own: Path | None = None, prepared: Preprocess | None = None, *, as_json: bool) -> None:
    """List what a target will not take as it is: by our rules, and by its parser where that is installed."""
    if place == FLOAT16:
        _float16(file, own, prepared, as_json=as_json)
        return
    if own is not None:
        raise UsageError(f"--data gives ranges, which only --target {FLOAT16} goes by; got --target {place}")
    model = file / bundle.MODEL if file.is_dir() else file
    named, chip = options.chip(place)
    target = named.replace("-", "_")
    graph, spoke = linting.load(model), "rules"
    compiler = backends.compiler_for(target)
    if compiler and ONNX not in backends.traits(compiler).accepts:
        compiler = None
    if compiler and (why := backends.missing_compiler(compiler)):
        console.say(f"the parser was not run: {why}", err=True)
        compiler = None
    if compiler:
        findings, spoke = _compiled(file, model, graph, target, compiler=compiler, chip=chip), "rules and parser"
    else:
        findings = linting.by_rules(graph, target)
    if as_json:
        console.emit({"model": str(model), "target": target, "findings": [asdict(f) for f in findings]})
    else:
        console.say(*map(str, (finding for finding in findings if finding.level != UNKNOWN)))
        console.say(*_not_tried([finding.op for finding in findings if finding.level == UNKNOWN]))
        console.say(f"{model}: {len(findings)} findings for {target}, by {spoke}")
    if broken := [finding for finding in findings if finding.breaks]:
        what = "will refuse" if any(finding.level == "refused" for finding in broken) else "will take, and get wrong,"
        raise GateError(f"{target} {what} {model}")


def _not_tried(ops: list[str]) -> list[str]:
    """Say in one line of which operators nothing is known."""
    counted = [f"{op} ({ops.count(op)})" for op in dict.fromkeys(ops)]
    return [f"unknown: {len(ops)} nodes have forms that were not tried there: {few(counted, 8)}"] if ops else []
