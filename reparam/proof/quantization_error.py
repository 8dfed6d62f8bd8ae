"""What a collapse does to weights in low precision: the error of INT8 and fp16 kernels before and after.

Before: each kernel of the branches is rounded on its own and the branches are collapsed in float64; after: the
collapsed kernel is rounded. Both are compared with the exact collapsed kernel, ‖K̂ − K‖ / ‖K‖, the worst output
channel counting. INT8 is symmetric with one scale for each output channel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attn_export.reparam import ir
from attn_export.reparam.algebra.linconv import NotFusibleError
from attn_export.reparam.planning.plan import Merge
from attn_export.reparam.proof.region import between, replay
from attn_export.reparam.result import Precision
from attn_export.types import Array


def int8(array: Array, axis: int = 0) -> Array:
    """Round to eight bits, one scale for each index along ``axis``."""
    others = tuple(n for n in range(array.ndim) if n != axis)
    step = np.abs(array).max(axis=others, keepdims=True) / 127
    step = np.where(step == 0, 1, step)
    return np.asarray(np.rint(array / step) * step)


def fp16(array: Array) -> Array:
    """Round to half precision; what overflows becomes infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float64)


def precision(graph: ir.Graph, merge: Merge) -> Precision | None:
    """Measure the error of a site's kernels before and after; None where they cannot be compared."""
    region, found = between(graph, merge.root, merge.targets), dict[str, float]()
    try:
        exact = _kernels(graph, merge, region, {})
        for name, rounding in (("int8", int8), ("fp16", fp16)):
            ops = {id(node): _rounded(node.op, rounding) for node in region}
            found[f"{name}_before"] = _worst(_kernels(graph, merge, region, ops), exact)
            del ops  # as large as the weights
            found[f"{name}_after"] = _worst([rounding(kernel) for kernel in exact], exact)
    except NotFusibleError:
        return None
    return Precision(**found)


def _kernels(graph: ir.Graph, merge: Merge, region: list[ir.Node], ops: dict[int, ir.Op]) -> list[Array]:
    states = replay(graph, merge, ops, region)
    return [states[target].lin.kernel() for target in merge.targets]


def _rounded(op: ir.Op, rounding: object) -> ir.Op:
    assert callable(rounding)
    match op:
        case ir.Conv():
            return replace(op, weight=rounding(op.weight))
        case ir.Linear():
            return replace(op, weight=np.ascontiguousarray(rounding(op.weight.T).T))
    return op


def _worst(got: list[Array], expected: list[Array]) -> float:
    """Return the largest relative error of an output channel."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape:
            return float("nan")
        flat, true = (a - b).reshape(len(b), -1), b.reshape(len(b), -1)
        norm = np.linalg.norm(true, axis=1)
        if (norm > 0).any():
            worst = max(worst, float(np.max(np.linalg.norm(flat, axis=1)[norm > 0] / norm[norm > 0])))
    return worst
