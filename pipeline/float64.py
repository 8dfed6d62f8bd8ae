"""The deployed graph in float64 on the user's own inputs, and how far our own float32 evaluation of it differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from attn_export.bundle import Case
from attn_export.export.onnx.read import read_model
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array


def evaluate(model: Path, feeds: Mapping[str, Mapping[str, Array]]) -> Iterator[Case]:
    """Make a case of each of ``feeds``.

    Raises:
        LoadError, ExportError: the file cannot be read, or holds an operator that the evaluation does not claim.
    """
    graph = read_model(model)
    exact, single = OnnxEvaluator(graph), OnnxEvaluator(graph, np.float32)
    for name, inputs in feeds.items():
        reference, other = exact.run(inputs), single.run(inputs)
        yield Case(name, inputs, reference, {key: _error(other[key], value) for key, value in reference.items()})


def _error(got: Array, reference: Array) -> float:
    error = float(np.linalg.norm((got.astype(np.float64) - reference).ravel()))
    return error if np.isfinite(error) else 0.0
