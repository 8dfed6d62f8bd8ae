"""A model without its large weights: what the checker and shape inference say of it, they would say of the whole."""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto, helper

#: Weights of this many bytes no longer fit in one protobuf message with everything else, whose limit is 2 GB.
HEAVY = 1_500_000_000
#: Smaller constants are kept: shapes may be computed from them.
SMALL = 1 << 16
#: Bits of an element where several share a byte.
BITS = {
    getattr(TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(TensorProto, name)
}


def size_of(tensor: TensorProto) -> int:
    """Count the bytes of a constant by its shape and type; strings by their number alone."""
    count: int = math.prod(tensor.dims)
    if tensor.data_type in BITS:
        return -(-count * BITS[tensor.data_type] // 8)
    if tensor.data_type == TensorProto.STRING:
        return count
    return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def stored(model: onnx.ModelProto) -> int:
    """Count the bytes of the weights that lie in the model itself; to ask for their values would copy them.

    >>> held = helper.make_tensor("w", TensorProto.FLOAT, [2, 3], [0.0] * 6)
    >>> stored(helper.make_model(helper.make_graph([], "g", [], [], [held])))
    24
    """
    return sum(size_of(t) for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL)


def light(model: onnx.ModelProto, heavy: int = HEAVY) -> onnx.ModelProto:
    """Give the model itself; where its weights are too many for one message, its skeleton."""
    return model if stored(model) < heavy else skeleton(model)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without its constant tensors."""
    copy = onnx.ModelProto()
    for source, made, left in ((model, copy, "graph"), (model.graph, copy.graph, "initializer")):
        for field, value in source.ListFields():
            if field.name == left:
                continue
            if field.is_repeated:
                getattr(made, field.name).extend(value)
            else:
                setattr(made, field.name, value)
    return copy


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model so that it takes large and outside weights as inputs."""
    copy = onnx.ModelProto(ir_version=model.ir_version, functions=model.functions)
    copy.opset_import.extend(model.opset_import)
    copy.metadata_props.extend(model.metadata_props)
    graph = copy.graph
    graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and size_of(tensor) <= SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return copy
