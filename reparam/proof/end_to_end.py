"""The certificate of a whole ONNX graph: fused and original in float64, on the same inputs, over every output.

Where they differ, the merges' results are compared one by one, in execution order: the first that departs is to blame.
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
from attn_export.types import Feeds


def compare(
    plain: onnx.ModelProto,
    fused: onnx.ModelProto,
    examples: Sequence[Feeds],
    folder: Path | None,
    arrays: Feeds | None = None,
) -> tuple[float, ...] | str:
    """The error on every example; or, where the original has operators that cannot be evaluated, which and why.

    ``arrays`` are the new weights of ``fused``, unrounded.
    """
    try:
        exact = OnnxEvaluator(plain, folder=folder)
        wanted = [exact.run(feeds) for feeds in examples]
    except ExportError as refused:  # an operator of another domain; the proofs of the sites stand in
        return str(refused)
    other = OnnxEvaluator(fused, folder=folder, arrays=arrays)
    return tuple(_error(want, other.run(feeds)) for want, feeds in zip(wanted, examples, strict=True))


def first_difference(
    plain: onnx.ModelProto,
    fused: onnx.ModelProto,
    feeds: Feeds,
    targets: Sequence[str],
    bound: float,
    folder: Path | None,
    arrays: Feeds | None = None,
) -> str | None:
    """The first of these tensors, in execution order, at which the two differ by more than the bound."""
    wanted = OnnxEvaluator(plain, folder=folder).run(feeds, targets)
    for name, value in OnnxEvaluator(fused, folder=folder, arrays=arrays).visit(feeds, targets):
        if not _error({name: wanted[name]}, {name: value}) <= bound:
            return name
    return None


def _error(wanted: Mapping[Any, Any], got: Mapping[Any, Any]) -> float:
    """The largest error over all outputs, each relative to its largest magnitude."""
    return max((_apart(want, got[name]) for name, want in wanted.items()), key=lambda e: (e != e, e), default=0.0)


def _apart(want: Any, have: Any) -> float:
    """The error of one value: an array, a sequence of arrays, or None."""
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        return _error(dict(enumerate(want)), dict(enumerate(have)))
    if not isinstance(want, np.ndarray | np.generic) or not isinstance(have, np.ndarray | np.generic):
        return 0.0 if want is None and have is None else float("inf")
    want, have = np.asarray(want), np.asarray(have)
    if want.shape != have.shape:
        return float("inf")
    if not np.issubdtype(want.dtype, np.floating):
        return 0.0 if np.array_equal(want, have) else float("inf")
    if not want.size:
        return 0.0
    gap = np.asarray(np.abs(want - have))  # of scalars NumPy makes no array
    gap[(want == have) | (np.isnan(want) & np.isnan(have))] = 0  # the same infinity is no difference
    scale = np.abs(want[np.isfinite(want)]).max(initial=1e-300)
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
