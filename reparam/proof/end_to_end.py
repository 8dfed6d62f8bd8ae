"""The certificate of a whole ONNX graph: fused and original in float64, on the same inputs, over every output.

Where they differ, the merges' results are compared one by one, in execution order: the first that differs is to blame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from attn_export.errors import ExportError
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.reparam.evaluate.shared import Shared
from attn_export.types import Feeds


def compare(
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    examples: Sequence[Feeds],
    folder: Path | None,
    arrays: Feeds | None = None,
) -> tuple[float, ...] | str:
    """Return the error on every example; or, where the original has operators that cannot be evaluated, which and why.

    ``arrays`` are the new weights of ``fused``, unrounded.
    """
    try:
        reference = OnnxEvaluator(original, folder=folder)
        expected = [reference.run(feeds) for feeds in examples]
    except ExportError as refused:  # an operator of another domain; the proofs of the sites stand in
        return str(refused)
    held = {tensor.name: tensor for tensor in original.graph.initializer}
    same = {t.name for t in fused.graph.initializer if t == held.get(t.name)} - (arrays or {}).keys()
    other = OnnxEvaluator(fused, folder=folder, arrays=Shared(reference.constants, same, arrays))
    return tuple(_error(outputs, other.run(feeds)) for outputs, feeds in zip(expected, examples, strict=True))


def first_difference(
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    feeds: Feeds,
    targets: Sequence[str],
    bound: float,
    folder: Path | None,
    arrays: Feeds | None = None,
) -> str | None:
    """Find the first of these tensors, in execution order, at which the two differ by more than the bound."""
    expected = OnnxEvaluator(original, folder=folder).run(feeds, targets)
    for name, value in OnnxEvaluator(fused, folder=folder, arrays=arrays).visit(feeds, targets):
        if not _error({name: expected[name]}, {name: value}) <= bound:
            return name
    return None


def _error(expected: Mapping[Any, Any], got: Mapping[Any, Any]) -> float:
    """Return the largest error over all outputs, each relative to its largest magnitude."""
    return max((_apart(right, got[name]) for name, right in expected.items()), key=lambda e: (e != e, e), default=0.0)


def _apart(right: Any, got: Any) -> float:
    """Return the error of one value: an array, a sequence of arrays, or None."""
    if isinstance(right, list) and isinstance(got, list) and len(right) == len(got):
        return _error(dict(enumerate(right)), dict(enumerate(got)))
    if not isinstance(right, np.ndarray | np.generic) or not isinstance(got, np.ndarray | np.generic):
        return 0.0 if right is None and got is None else float("inf")
    right, got = np.asarray(right), np.asarray(got)
    if right.shape != got.shape:
        return float("inf")
    if not np.issubdtype(right.dtype, np.floating):
        return 0.0 if np.array_equal(right, got) else float("inf")
    if not right.size:
        return 0.0
    gap = np.asarray(np.abs(right - got))  # of scalars NumPy makes no array
    gap[(right == got) | (np.isnan(right) & np.isnan(got))] = 0  # the same infinity is no difference
    scale = np.abs(right[np.isfinite(right)]).max(initial=1e-300)
    return float(gap.max()) / float(scale)


def draw(model: onnx.ModelProto, sizes: Mapping[str, int], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Draw inputs: normal for floats, zeros for the rest; dynamic dimensions get sizes that nets usually accept."""
    rng = np.random.default_rng(seed)
    constants = {t.name for t in model.graph.initializer}
    feeds: dict[str, NDArray[Any]] = {}
    for info in model.graph.input:
        if info.name in constants:
            continue
        kind = info.type.tensor_type
        shape = [
            d.dim_value if d.HasField("dim_value") else sizes.get(d.dim_param, 2 if n == 0 else 64)
            for n, d in enumerate(kind.shape.dim)
        ]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type or TensorProto.FLOAT)
        floating = kind.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
        feeds[info.name] = (rng.standard_normal(shape) if floating else np.zeros(shape)).astype(dtype)
    return feeds
