"""One entry to one target from a bundle that is there: its model is converted, its cases and their reference hold.

``attn-export sweep --fuse`` leaves such bundles, and this is a tenth of the main job's work. What is made from a
PyTorch program cannot be made from a bundle.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import onnx

from attn_export import bundle
from attn_export.bundle import Bundle
from attn_export.deploy_tests.backends import BACKENDS, backend_for
from attn_export.errors import AttnExportError, BackendMissingError
from attn_export.export.converters import CONVERTERS, Source, parse
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.export.precision import classes
from attn_export.pipeline.gate import ParityGate
from attn_export.pipeline.stage import Made
from benchmarks.targets.attempt import empty, judged, refused, unforeseen
from benchmarks.targets.row import Row


def attempt(folder: Path, target: str, entry: str, preset: str) -> Row:
    """Convert the model of an entry's bundle in ``folder``, and prove it; whatever comes of it is a row.

    Raises:
        BackendMissingError: nothing here runs what the converter writes.
        BundleError: the bundle is not there, or not whole.
    """
    began = time.perf_counter()
    whole = bundle.read(folder / f"{entry}-{preset}-fused")
    row = _attempt(empty(target, entry, preset), whole)
    return replace(row, seconds=round(time.perf_counter() - began, 1))


def _attempt(row: Row, whole: Bundle) -> Row:
    fusion = whole.manifest.get("fusion") or {}
    row = replace(row, fused=bool(fusion.get("sites")))
    try:
        name, precision = parse(row.target)
        source = source_of(whole, precision)
        one = CONVERTERS[name].convert(source)
        versions = {"converter": one.produced_by, "runtime": BACKENDS[backend_for(one.kind)].version()}
        held = classes.of(source.exported.model)
        made = Made("convert", source.exported, precision=held.name, snr=held.snr, converted=(one,))
        with tempfile.TemporaryDirectory() as place:
            parity = ParityGate(whole.cases, Path(place)).converted(made).parity
    except BackendMissingError:
        raise
    except AttnExportError as error:
        return refused(row, error)
    except Exception as error:  # converters and runtimes may raise anything; that is their failure, and a row
        return unforeseen(row, error)
    found = replace(row, converted=True, ran=True, evidence="E2", versions=versions, left_out=len(parity.left_out))
    return judged(found, parity)


def source_of(whole: Bundle, asked: str = "") -> Source:
    """Give what a converter is given, from a bundle's main model."""
    model = onnx.load(whole.model)
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    exported = Exported(model, Contract(opset, whole.inputs, whole.outputs, whole.dynamic_dims))
    return Source(exported, whole.cases[0].inputs, None, classes.of(model).name, asked)
