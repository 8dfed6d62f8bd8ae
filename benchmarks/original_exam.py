"""Examine one row in a process of its own: does the original run and export, is the graph right; and ours likewise.

    python -m benchmarks.original_exam NAME CHECKOUT FOLDER

writes ``exam.json``, the graphs of both and the inputs to FOLDER.
"""

from __future__ import annotations

import copy
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.parity.compare import prove
from attn_export.errors import AttnExportError
from attn_export.export import reference
from attn_export.export.onnx.exported import Exported
from attn_export.export.onnx.save import save
from attn_export.export.onnx.simplify import simplify
from attn_export.export.onnx.torch_export import export
from attn_export.export.outputs import evaluate
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.export.weights import checkpoint
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Spec
from attn_export.pipeline.options import BuildOptions
from attn_export.pipeline.stages import build as build_stages
from attn_export.types import Dim
from benchmarks.original_modules import build
from benchmarks.original_rows import ROWS, Original

#: Operators that many runtimes lack.
RARE = ("Col2Im", "DFT", "ScatterND", "GatherND", "Einsum")
#: How far two float64 evaluations of the same mathematics may lie apart.
SAME = 1e-9
EXAM, OURS, FREE, ORIGINAL = "exam.json", "ours.onnx", "free.onnx", "original.onnx"


def examine(row: Original, checkout: Path, folder: Path) -> dict[str, Any]:
    """Everything the table needs of one row; graphs and inputs for the timing are written to ``folder``."""
    spec: Spec = MECHANISMS[row.name]
    family = MECHANISMS.entries[row.name].family
    preset = spec.presets["readme"]
    arguments = {**preset.arguments, **row.ours}
    spec = replace(spec, presets={**spec.presets, "readme": replace(preset, arguments=arguments)})
    ours = from_spec(row.name, spec, "readme")
    result: dict[str, Any] = {"name": row.name, "family": family}
    result["shapes"] = {name: list(value.shape) for name, value in ours.example().items()}
    result["ours"] = _ours(ours, family == "rep" or bool(row.switch), folder)
    if row.fixed:
        result["ours"] |= _fixed(ours, folder)
    try:
        module, deployed = build(row, checkout, len(ours.inputs))
        with torch.no_grad():
            module(*ours.example().values())
    except Exception as error:  # whatever somebody else's code raises
        result["original"] = {"runs": False, "why": _said(error)}
        return result
    result["original"] = {"runs": True, **_original(ours, module, deployed, folder)}
    result["same"] = _same(spec, ours, module)
    return result


def _ours(subject: Subject, fuse: bool, folder: Path) -> dict[str, Any]:
    """Make what the main job would deploy, with all its dynamic dimensions."""
    final = build_stages(subject, BuildOptions(fuse=fuse)).model
    save(final.model, folder / OURS)
    cases = _cases(subject)
    bundle.write_cases(folder / bundle.CASES, cases[:1])
    return {"fused": fuse, **_judge(folder / OURS, final, cases), "batch": _right(folder / OURS, final, cases)}


def _fixed(subject: Subject, folder: Path) -> dict[str, Any]:
    """Ours with the batch fixed, as the original is; the free one is kept beside it."""
    (folder / OURS).replace(folder / FREE)
    static = replace(subject, dynamic=tuple(dim for dim in subject.dynamic if dim.name != "b"))
    fixed = build_stages(static, BuildOptions()).model
    save(fixed.model, folder / OURS)
    judged = _judge(folder / OURS, fixed, _cases(subject))
    return {"fixed_nodes": judged["nodes"], "parity": judged["parity"]}


def _original(ours: Subject, module: nn.Module, deployed: nn.Module, folder: Path) -> dict[str, Any]:
    """Export plainly at the one shape, then with a dynamic batch; keep the better graph for the timing."""
    fixed = Subject(ours.name, module, ours.inputs, ours.sizes)
    cases = _cases(replace(fixed, dynamic=(Dim("b"),)))
    found: dict[str, Any] = {"exports": False, "parity": False, "batch": False}
    try:
        exported = export(fixed)
    except AttnExportError as error:
        return {**found, "why": _said(error)}
    save(exported.model, folder / ORIGINAL)
    found |= {"exports": True, "reference": "fixed batch", **_judge(folder / ORIGINAL, exported, cases[:1])}
    best, free = exported, replace(fixed, dynamic=(Dim("b"),))
    try:
        dynamic = export(free)
        path = folder / "batch.onnx"
        save(dynamic.model, path)
        found["batch"] = _right(path, dynamic, cases)
        path.unlink()
        if found["batch"]:
            best, found["reference"] = dynamic, "dynamic batch"
    except AttnExportError as error:
        found["batch_why"] = _said(error)
    if deployed is not module and found["parity"]:
        best = _switched(free if found["batch"] else fixed, deployed, best)
    try:
        best = simplify(best)
    except AttnExportError as error:
        found["simplified"] = _said(error)
    save(best.model, folder / ORIGINAL)
    found["deployed_nodes"] = best.nodes
    return found


def _switched(subject: Subject, deployed: nn.Module, otherwise: Exported) -> Exported:
    try:
        return export(replace(subject, module=deployed))
    except AttnExportError:
        return otherwise


def _cases(subject: Subject) -> tuple[Case, ...]:
    """Make the traced size first, then other batch sizes: none of those is the traced one."""
    batch = subject.sizes["b"]
    feeds = [("traced", subject.example())]
    if any(dim.name == "b" for dim in subject.dynamic):
        feeds += [(f"b={n}", subject.example(seed=n, sizes={"b": n})) for n in (1, 3) if n != batch]
    made: list[Case] = []
    for feed in feeds:
        made += _evaluated(subject, feed)
    return tuple(made)


def _evaluated(subject: Subject, feed: tuple[str, Mapping[str, Tensor]]) -> Sequence[Case]:
    try:
        return reference.on(subject, [feed])
    except AttnExportError:  # in float64, or at another batch size, not every original runs
        return _single(subject, feed)


def _single(subject: Subject, feed: tuple[str, Mapping[str, Tensor]]) -> list[Case]:
    """Where a module cannot run in float64: float32 stands for the truth, and 1e-5 of it is granted."""
    name, inputs = feed
    try:
        came = evaluate(subject.module, inputs)
    except AttnExportError:
        return []
    arrays = {key: value.double().numpy() for key, value in came.items()}
    grant = {key: 1e-5 * float(value.double().norm()) for key, value in came.items()}
    return [Case(name, {k: v.numpy() for k, v in inputs.items()}, arrays, grant)]


def _judge(path: Path, exported: Exported, cases: Sequence[Case]) -> dict[str, Any]:
    kinds = Counter(node.op_type for node in _nodes(exported.model))
    traced = [case for case in cases if case.name == "traced"]
    return {
        "nodes": exported.nodes,
        "rare": {kind: kinds[kind] for kind in RARE if kinds[kind]},
        "parity": _right(path, exported, traced),
    }


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [*model.graph.node, *(node for function in model.functions for node in function.node)]


def _right(path: Path, exported: Exported, cases: Sequence[Case]) -> bool:
    try:
        with BACKENDS["onnxruntime"].open(path, Options(threads=1)) as run:
            return prove(run, cases, exported.contract.outputs, backend="onnxruntime").ok
    except (AttnExportError, ValueError):
        return False


def _same(spec: Spec, ours: Subject, original: nn.Module) -> str:
    """Load the original's weights into ours: the same function, or what differs."""
    mine, theirs = copy.deepcopy(ours.module).double(), copy.deepcopy(original).double()
    inner = theirs.inner
    assert isinstance(inner, nn.Module)
    inputs = {name: v.double() if v.is_floating_point() else v for name, v in ours.example().items()}
    try:
        checkpoint.load(mine, inner.state_dict(), spec=spec)
    except Exception:  # a conversion may break on what is not there
        return "other weights"
    try:
        with torch.no_grad():
            wanted, came = theirs(*inputs.values()), mine(*inputs.values())
    except Exception:  # the original does not run in float64
        return "not compared"
    if wanted.shape != came.shape:
        return "other shape"
    apart = float((wanted - came).norm() / wanted.norm())
    return "same" if apart <= SAME else f"{apart:.0e} apart"


def _said(error: BaseException) -> str:
    """One line, without addresses or paths."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return re.sub(r"\s+", " ", re.sub(r"/\S+/|0x\w+", "", lines[0]))[:160]


def main() -> None:
    """Examine the row named on the command line."""
    name, checkout, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row = next(row for row in ROWS if row.name == name)
    (folder / EXAM).write_text(json.dumps(examine(row, checkout, folder), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
