"""Optional inputs that are written out and yet equal what the operator takes without them."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from attn_export.export.graph.index import FAR, GraphIndex, attribute
from attn_export.types import Array

_RECURRENT = {"B": 0.0, "initial_h": 0.0, "initial_c": 0.0, "P": 0.0}
#: By operator, and by the name its schema gives an input: the number that is the same as no input.
_DEFAULTS: dict[str, dict[str, float]] = {
    "RNN": _RECURRENT,
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "Conv": {"B": 0.0},
    "ConvTranspose": {"B": 0.0},
    "DeformConv": {"B": 0.0, "mask": 1.0},
    "Gemm": {"C": 0.0},
    "LayerNormalization": {"B": 0.0},
    "Clip": {"min": -math.inf, "max": math.inf},
    "Slice": {"steps": 1.0},
    "Pad": {"constant_value": 0.0},
    "Dropout": {"training_mode": 0.0},
    "Trilu": {"k": 0.0},
    "DequantizeLinear": {"x_zero_point": 0.0},
    "ConvInteger": {"x_zero_point": 0.0, "w_zero_point": 0.0},
    "MatMulInteger": {"a_zero_point": 0.0, "b_zero_point": 0.0},
}
#: How a node holds a constant that is no tensor.
_LITERALS = ("value_float", "value_floats", "value_int", "value_ints")
#: All that these do is move the elements of their first input about, or repeat them.
_SPREADING = {
    "Expand",
    "Reshape",
    "Unsqueeze",
    "Squeeze",
    "Transpose",
    "Identity",
    "Slice",
    "Tile",
    "Gather",
    "Flatten",
    "Cast",
}


def is_default(index: GraphIndex, node: onnx.NodeProto, called: str, name: str) -> bool:
    """Whether the input ``called`` so by the schema, which is the tensor ``name``, changes nothing."""
    if called == "sequence_lens":
        shape, axis = index.shape(node.input[0]), 1 if attribute(node, "layout", 0) else 0
        return shape is not None and uniform(index, name) == shape[axis]
    wanted = _DEFAULTS.get(node.op_type, {}).get(called)
    if wanted is None or (value := uniform(index, name)) is None:
        return False
    largest = float(np.finfo(np.float32).max)
    return value == wanted or (math.isinf(wanted) and value * math.copysign(1.0, wanted) >= largest)


def uniform(index: GraphIndex, name: str, far: int = FAR) -> float | None:
    """Give the one number that all elements of a tensor are, however they are spread out; None where none is known.

    >>> from onnx import helper
    >>> nodes = [helper.make_node("ConstantOfShape", ["s"], ["z"]), helper.make_node("Expand", ["z", "t"], ["y"])]
    >>> model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    >>> uniform(GraphIndex(model), "y"), uniform(GraphIndex(model), "t")
    (0.0, None)
    """
    if (known := constant(index, name)) is not None:
        return _one(known)
    node = index.maker.get(name)
    if node is None or far <= 0:
        return None
    if node.op_type == "ConstantOfShape":
        value = attribute(node, "value")
        return 0.0 if value is None else _one(numpy_helper.to_array(value))
    if node.op_type in _SPREADING and node.input:
        return uniform(index, node.input[0], far - 1)
    if node.op_type == "Concat":
        found = {uniform(index, part, far - 1) for part in node.input}
        return found.pop() if len(found) == 1 else None
    return None


def constant(index: GraphIndex, name: str) -> Array | None:
    """Give the value of a tensor that the file holds, as an initializer or in a node; None where it is computed."""
    if name in index.tensors:
        return index.array(name)
    node = index.maker.get(name)
    if node is None or node.op_type != "Constant" or len(node.attribute) != 1:
        return None
    value = helper.get_attribute_value(node.attribute[0])
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if node.attribute[0].name in _LITERALS else None


def floats(index: GraphIndex) -> dict[str, Array]:
    """Give the constants of floating point that some node reads, wherever the file holds them."""
    read = dict.fromkeys(name for node in index.nodes for name in node.input if name)
    found = {name: value for name in read if (value := constant(index, name)) is not None}
    return {name: value for name, value in found.items() if value.dtype.kind not in "iubSOU"}


def held(index: GraphIndex) -> frozenset[str]:
    """Name the constants that the file holds: initializers, and what its nodes hold."""
    nodes = (node.output[0] for node in index.nodes if node.op_type == "Constant")
    return frozenset((*index.tensors, *map(str, nodes)))


def _one(values: Array) -> float | None:
    if not values.size or values.dtype.kind not in "fiub" or not (values == values.ravel()[0]).all():
        return None
    return float(values.ravel()[0])
