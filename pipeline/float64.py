"""The deployed graph in float64 on the user's own inputs, and how far our own float32 evaluation of it differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from attn_export.bundle import Case, Selection, case_of
from attn_export.export.onnx.read import read_model
from attn_export.export.onnx.rounded_outputs import rounded
from attn_export.reparam.evaluate import transcendental
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array


def evaluate(
    model: Path, feeds: Mapping[str, Mapping[str, Array]], selections: tuple[Selection, ...] = ()
) -> Iterator[Case]:
    """Make a case of each of ``feeds``; rows of ``selections`` are compared wherever they stand.

    Raises:
        LoadError, ExportError: the file cannot be read, or holds an operator that the evaluation does not claim.
    """
    graph = read_model(model)
    exact, single = OnnxEvaluator(graph), OnnxEvaluator(graph, np.float32)
    ways: tuple[transcendental.Way, ...] = ("either", "up") if transcendental.found_in(graph) else ()
    others = [single, *(OnnxEvaluator(graph, np.float32, coarse=way) for way in ways)]
    for name, inputs in feeds.items():
        runs = [rounded(graph, other.run(inputs)) for other in others]
        yield case_of(name, inputs, exact.run(inputs), runs, selections)
