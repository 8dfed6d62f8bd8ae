"""``fuse`` and ``lint``: commands on bare ONNX files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import typer

from attn_export import bundle
from attn_export.errors import GateError, SubjectError, UnknownNameError, WriteError
from attn_export.export.save import save
from attn_export.reparam.fusion import Fusion
from attn_export.reparam.graph import fuse_graph
from attn_export.tools import lint as linting


def fuse(file: Path, output: Path, cost: str, keep: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Collapse what pays in an ONNX file; write the result only with its certificate."""
    fusion = fuse_graph(_load(file), cost=cost, keep=keep, folder=file.parent)
    if not fusion.certificate.ok:
        raise GateError(f"fusing {file} changed it: worst error {fusion.certificate.worst:.3g}; nothing was written")
    rolled = [refusal for refusal in fusion.refusals if refusal.reason.startswith("rolled back")]
    if rolled and strict:
        raise GateError(f"{len(rolled)} sites were rolled back, and --strict was asked for; nothing was written")
    partial = output.with_name(f".{output.name}.partial")
    try:
        save(fusion.model, partial)
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WriteError(f"cannot write {output}: {error.strerror or error}") from error
    typer.echo(json.dumps(_plain(fusion, output)) if as_json else _account(fusion, output))


def _account(fusion: Fusion[onnx.ModelProto], output: Path) -> str:
    lines = [f"{site.name}: {site.pattern} → {', '.join(site.after)}" for site in fusion.sites]
    lines += [f"not fused: {r.name}: {r.reason}{f'; {r.remedy}' if r.remedy else ''}" for r in fusion.refusals]
    certificate = fusion.certificate
    lines.append(
        f"{output}: {len(fusion.sites)} sites fused, worst error {certificate.worst:.1e} in float64"
        f" (bound {certificate.bound:g})"
    )
    return "\n".join(lines)


def _plain(fusion: Fusion[onnx.ModelProto], output: Path) -> dict[str, Any]:
    return {
        "output": str(output),
        "sites": [asdict(site) for site in fusion.sites],
        "refusals": [asdict(refusal) for refusal in fusion.refusals],
        "certificate": {"worst": fusion.certificate.worst, "bound": fusion.certificate.bound},
    }


def lint(file: Path, target: str, sm: str, as_json: bool) -> None:
    """Say what a target will not take as it is: by our rules, and by its parser where that is installed."""
    model = file / bundle.MODEL if file.is_dir() else file
    if target not in linting.TARGETS:
        raise UnknownNameError("lint target", target, linting.TARGETS)
    findings = linting.by_rules(linting.load(model), target)
    spoke = "rules"
    if target == "tensorrt":
        from attn_export.deploy_tests.backends.tensorrt import evidence

        if why := evidence.missing():
            typer.echo(f"the parser did not speak: {why}", err=True)
        else:
            findings += linting.by_parser(model, sm=sm)
            spoke = "rules and parser"
    if as_json:
        typer.echo(json.dumps({"model": str(model), "target": target, "findings": [asdict(f) for f in findings]}))
    else:
        for finding in findings:
            typer.echo(str(finding))
        typer.echo(f"{model}: {len(findings)} findings for {target}, by {spoke}")
    if any(finding.level == "refused" for finding in findings):
        raise GateError(f"{target} will refuse {model}")


def _load(file: Path) -> onnx.ModelProto:
    try:
        return onnx.load(file)
    except FileNotFoundError as error:
        raise SubjectError(f"there is no file {file}") from error
    except Exception as error:  # protobuf's own errors share no public base
        raise SubjectError(f"{file} is no ONNX file: {error}") from error
