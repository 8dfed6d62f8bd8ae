"""Questions about an ONNX graph that several stages ask: who makes a tensor, who reads it, how large is it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from attn_export.types import Array

Shape = tuple[int | str, ...] | None


class View:
    """An index of a model that is not to be changed while the view is used."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.graph = graph
        self.nodes = list(graph.node)
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = graph_inputs(model)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self._shapes = _shapes(model)

    def array(self, name: str) -> Array:
        """The value of a constant tensor."""
        return numpy_helper.to_array(self.tensors[name])

    def floats(self) -> list[str]:
        """Constant tensors of floating point that some node reads, in the order of their first reader."""
        seen = dict.fromkeys(name for node in self.nodes for name in node.input if name in self.tensors)
        return [name for name in seen if self.tensors[name].data_type in _FLOATING]

    def shape(self, name: str) -> Shape:
        """Sizes by number or symbol; ``?`` for a size that inference does not know, None where not even the rank is."""
        if name in self.tensors:
            return tuple(self.tensors[name].dims)
        return self._shapes.get(name)

    def computed(self, name: str) -> bool:
        """Whether the tensor depends on the input."""
        return bool(name) and name not in self.tensors


_FLOATING = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}


#: Weights of this many bytes no longer fit in one protobuf message with everything else, whose limit is 2 GB.
HEAVY = 1_500_000_000
#: Smaller constants are kept: shapes may be computed from them.
SMALL = 1 << 16


def light(model: onnx.ModelProto, heavy: int = HEAVY) -> onnx.ModelProto:
    """The model itself; where its weights are too many for one message, a copy that takes the large ones as inputs.

    What the checker and shape inference say of the copy, they would say of the model, if they could read it.
    """
    if sum(map(_bytes, model.graph.initializer)) < heavy:
        return model
    copy = onnx.ModelProto(ir_version=model.ir_version, functions=model.functions)
    copy.opset_import.extend(model.opset_import)
    graph = copy.graph
    graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    for tensor in model.graph.initializer:
        if _bytes(tensor) <= SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return copy


def _bytes(tensor: onnx.TensorProto) -> int:
    """Of the values that the model itself holds; asked of the shape, since to ask for the values copies them."""
    if not tensor.HasField("raw_data"):
        return 0
    count: int = math.prod(tensor.dims)
    return count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no initializers (old producers list those as well)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute in place."""
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def find(graph: onnx.GraphProto, output: str) -> int:
    """Position of the node that makes ``output``."""
    return next(i for i, node in enumerate(graph.node) if output in node.output)


def set_tensor(graph: onnx.GraphProto, name: str, value: Array) -> None:
    """Replace the value of a constant tensor in place, or add it."""
    new = numpy_helper.from_array(np.ascontiguousarray(value), name)
    for tensor in graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(new)
            return
    graph.initializer.append(new)


def insert(graph: onnx.GraphProto, position: int, nodes: list[onnx.NodeProto]) -> None:
    """Insert nodes before the one at ``position``."""
    after = list(graph.node)[position:]
    copies = []
    for node in after:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[position:]
    graph.node.extend([*nodes, *copies])


def _shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    try:
        graph = onnx.shape_inference.infer_shapes(light(model, heavy=0)).graph  # which copies what it is given, twice
    except Exception:  # an operator inference does not know: what is declared remains
        graph = model.graph
    shapes: dict[str, Shape] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(
                dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in dims
            )
    return shapes
