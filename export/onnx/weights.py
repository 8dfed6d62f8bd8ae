"""What weights must not hold: with a NaN, an infinity or a negative variance nothing that is computed means anything.

A mask may hold an infinity: only operands that are multiplied are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from attn_export.errors import SubjectError
from attn_export.export.graph.index import attribute, is_standard
from attn_export.export.onnx.walk import graphs
from attn_export.untrusted.text import few

#: By operator, where its weights stand among its inputs.
_WEIGHTS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "PRelu", "InstanceNormalization", "LayerNormalization"), (1, 2)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3)),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2, 3, 4),
}
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_VARIANCE = 4


def check(model: ModelProto) -> str:
    """Refuse weights that make every output NaN; say which batch norms have a variance of zero.

    Raises:
        SubjectError: a weight is NaN or infinite, or a variance is negative.
    """
    zero = []
    for node, place, tensor in _operands(model):
        values = numpy_helper.to_array(tensor).astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            _refuse(node, tensor, values)
        if node.op_type == "BatchNormalization" and place == _VARIANCE:
            if (values + np.float32(attribute(node, "epsilon", 1e-5)) < 0).any():
                least = float(values.min())
                raise SubjectError(
                    f"{_called(node)} has a negative variance ({tensor.name!r} holds {least:g}), whose root is NaN,"
                    " and so is its output; the weights were not written as they were trained: export them again"
                )
            if not values.all():
                zero.append(_called(node))
    if not zero:
        return ""
    return (
        f"channels of {few(zero, 3)} have a variance of 0: they were constant in training,"
        " and any other value is enlarged by 1/√ε"
    )


def _operands(model: ModelProto) -> Iterator[tuple[NodeProto, int, TensorProto]]:
    """Yield what the file holds of weights: the node that reads each, at which place."""
    for graph in graphs(model):
        held = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for place in _WEIGHTS.get(node.op_type, ()) if is_standard(node) else ():
                tensor = held.get(node.input[place]) if place < len(node.input) else None
                if tensor is None or tensor.data_type not in _FLOATS:
                    continue
                if tensor.data_location != TensorProto.EXTERNAL:
                    yield node, place, tensor


def _refuse(node: NodeProto, tensor: TensorProto, values: NDArray[np.float32]) -> None:
    bad = values[~np.isfinite(values)]
    count, what = bad.size, "NaN" if np.isnan(bad).any() else "infinity"
    raise SubjectError(
        f"the weight {tensor.name!r} of {_called(node)} holds {what} in {count} of {values.size} places, so its output"
        " means nothing and cannot be proven; export the weights again"
    )


def _called(node: NodeProto) -> str:
    return f"{node.op_type} {(node.name or next(iter(node.output), ''))!r}"
