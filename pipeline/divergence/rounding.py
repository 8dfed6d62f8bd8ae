"""What rounding its new weights to float32 does to a graph, tensor by tensor.

A weight that was fused, folded or scaled is computed once and rounded to float32: it is right to 2⁻²⁴ of itself. So is
each factor of a channel that went into it, and a bias is right to 2⁻²⁴ of the sums that it is what is left of. A graph
with such weights moved by that much at random is as right as the graph itself, and how far the two lie apart at a
tensor is what two correct graphs may differ by there. A constant that both graphs have, bit for bit, is not moved.
"""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
from onnx import numpy_helper

from attn_export.export.audit.defaults import floats
from attn_export.export.graph.index import GraphIndex
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array

#: Half the distance between float32 numbers around 1: what rounding moves a number by at most, relatively.
UNIT = 2.0**-24


def new_constants(model: onnx.ModelProto, other: onnx.ModelProto) -> dict[str, Array]:
    """Give the constants of floating point that are none of the other's, bit for bit."""
    known = {_digest(value) for value in floats(GraphIndex(other)).values()}
    return {name: value for name, value in floats(GraphIndex(model)).items() if _digest(value) not in known}


def rounded(model: onnx.ModelProto, new: dict[str, Array], seed: int = 0) -> OnnxEvaluator:
    """Make a float64 evaluation of the model in which these constants are rounded another way."""
    random = np.random.default_rng(seed)
    arrays = {name: moved(value, random) for name, value in new.items()}
    initializers = {tensor.name for tensor in model.graph.initializer}
    if inner := arrays.keys() - initializers:
        model = _lifted(model, {name: new[name] for name in inner})
    return OnnxEvaluator(model, arrays=arrays)


def moved(value: Array, random: np.random.Generator) -> Array:
    """Move every element by a rounding of its own, and one of each index along the first, second and last axis.

    In a vector, which may be a bias, each rounding is of the largest element: a small one may be what is left of large
    ones.
    """
    wide = value.astype(np.float64)
    size = np.abs(wide)
    if sum(length > 1 for length in wide.shape) < 2:
        size = np.full_like(wide, size.max(initial=0.0)) * (wide != 0)
    steps = _signs(wide.shape, random)
    for axis in sorted({0, 1, wide.ndim - 1} & set(range(wide.ndim))) if wide.ndim > 1 else ():
        steps = steps + _signs([length if axis == own else 1 for own, length in enumerate(wide.shape)], random)
    return np.asarray(wide + UNIT * size * steps)


def _signs(shape: tuple[int, ...] | list[int], random: np.random.Generator) -> Array:
    return np.asarray(random.integers(0, 2, shape) * 2.0 - 1.0)


def _digest(value: Array) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16).digest()


def _lifted(model: onnx.ModelProto, inner: dict[str, Array]) -> onnx.ModelProto:
    """Copy a model so that these constants are initializers and not nodes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = [node for node in model.graph.node if not (node.op_type == "Constant" and node.output[0] in inner)]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in inner.items())
    return copy
