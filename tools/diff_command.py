"""``diff``: where a bundle's model parts from a backend, or from another graph."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import typer

from attn_export import bundle
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.errors import GateError, LoadError
from attn_export.export.origin import recall
from attn_export.tools.diff import locate, write_repro


def diff(path: Path, other: str, output: Path | None, as_json: bool) -> None:
    """Say where the bundle's graph in float64 and ``other`` part, on the bundle's own cases.

    ``other`` is a backend, or a graph to hold it against: another bundle, or an ONNX file. ``output`` is a folder for
    the smallest part that still shows it.

    Raises:
        GateError: they part.
        LoadError, BackendMissingError, BackendError, ExportError: one of them cannot be read or run.
    """
    whole = bundle.read(path)
    model = onnx.load(whole.model)
    reference = _graph(other)
    if reference is None:
        BACKENDS.place(other)  # raises, and says which names are near
    cases = {case.name: case.inputs for case in whole.cases}
    known = recall(whole.manifest.get("origins") or {})
    snr = (whole.manifest.get("tolerance") or {}).get("snr")  # of a precision below float32
    backend = "onnxruntime" if reference else other
    parting = locate(model, cases.items(), backend, reference=reference, known=known, snr=snr)
    nodes = 0
    if parting and output:
        nodes = write_repro(model, parting.departure, cases[parting.case], output, reference)
    if as_json:
        typer.echo(json.dumps({"bundle": str(path), "other": other, "parting": parting.as_json() if parting else None}))
    elif parting is None:
        typer.echo(f"{path} and {other} part nowhere: {len(cases)} cases")
    else:
        typer.echo(parting.sentence())
        rows = parting.departure.growth
        typer.echo("relative error along the graph: " + ", ".join(f"{name} {error:.1e}" for name, error in rows))
        if nodes:
            typer.echo(f"{output}/: the {nodes} nodes that show it; run repro.py there")
    if parting:
        raise GateError(f"{path} and {other} part at {parting.departure.node!r}")


def _graph(other: str) -> onnx.ModelProto | None:
    """The graph that ``other`` names, or None where it is no file."""
    place = Path(other)
    if place.is_dir():
        return onnx.load(bundle.read(place).model)
    if place.suffix != ".onnx":
        return None
    try:
        return onnx.load(place)
    except Exception as error:  # a missing file, or no protobuf message
        raise LoadError(f"{other} cannot be read: {error}") from error
