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


def light(model: onnx.ModelProto, heavy: int = HEAVY) -> onnx.ModelProto:
    """Give the model itself; where its weights are too many for one message, its skeleton."""
    held = (tensor for tensor in model.graph.initializer if tensor.data_location != TensorProto.EXTERNAL)
    return model if sum(map(size_of, held)) < heavy else skeleton(model)


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
