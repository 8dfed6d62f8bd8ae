"""One view of an ONNX graph for everything that asks it: who makes a tensor, who reads it, how large is it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attn_export.export.graph.light import skeleton
from attn_export.types import Array

Shape = tuple[int | str, ...] | None
#: The domain of the standard's operators, by both its names.
STANDARD = ("", "ai.onnx")
#: How many operators ``before`` looks through: between the products of an attention there are a few.
FAR = 32
#: Element types that round.
FLOATING = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


class GraphIndex:
    """The look-ups of a model that is not to be changed while they are used.

    Args:
        model: what is looked into; its large weights may lie elsewhere.
        propagate: whether shape inference follows the values of small constants, which finds more sizes, under symbols
            of its own making: good for asking one graph, not for comparing two.
    """

    def __init__(self, model: onnx.ModelProto, *, propagate: bool = False) -> None:
        self.model, self.graph, self._propagate = model, model.graph, propagate
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.tensors: Mapping[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = graph_inputs(model)
        self._zeros: dict[str, bool] = {}
        self.maker = {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def standard(self) -> list[onnx.NodeProto]:
        """The nodes that mean what the standard says: an operator of another domain may have any inputs."""
        return [node for node in self.nodes if is_standard(node)]

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def opset(self) -> int:
        """Version of the default operator set, or 0."""
        return next((item.version for item in self.model.opset_import if item.domain in STANDARD), 0)

    @cached_property
    def _declared(self) -> dict[str, onnx.ValueInfoProto]:
        try:  # the whole model would be copied, twice
            graph = onnx.shape_inference.infer_shapes(skeleton(self.model), data_prop=self._propagate).graph
        except Exception:  # an operator inference does not know: what is declared remains
            graph = self.graph
        return {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}

    @cached_property
    def _built(self) -> set[str]:
        known = {"", *self.tensors}
        for node in self.nodes:  # sorted, so one pass reaches everything
            if known.issuperset(node.input):
                known.update(node.output)
        return known

    def declared(self, name: str) -> onnx.ValueInfoProto | None:
        """Give type and shape of a tensor that is no constant, as far as inference knows them."""
        return self._declared.get(name)

    def array(self, name: str) -> Array:
        """Give the value of a constant tensor."""
        return numpy_helper.to_array(self.tensors[name])

    def is_zero(self, name: str) -> bool:
        """Whether a constant tensor has no element but zeros; it is looked at once."""
        if name not in self._zeros:
            self._zeros[name] = not self.array(name).any()
        return self._zeros[name]

    def floats(self) -> list[str]:
        """List the constant tensors of floating point that some node reads, in the order of their first reader."""
        seen = dict.fromkeys(name for node in self.nodes for name in node.input if name in self.tensors)
        return [name for name in seen if self.tensors[name].data_type in FLOATING]

    def shape(self, name: str) -> Shape:
        """Give sizes by number or symbol; ``?`` for one that is not known, None where not even the rank is."""
        if name in self.tensors:
            return tuple(self.tensors[name].dims)
        value = self._declared.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        dims = value.type.tensor_type.shape.dim
        return tuple(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in dims)

    def rank(self, name: str) -> int:
        """Count the dimensions of a tensor; -1 where that is not known."""
        shape = self.shape(name)
        return -1 if shape is None else len(shape)

    def width(self, name: str) -> int:
        """Give the size of a tensor's last dimension; 0 where it is not known."""
        shape = self.shape(name)
        return shape[-1] if shape and isinstance(shape[-1], int) else 0

    def element_type(self, name: str) -> int:
        """Give the element type of a tensor, as ONNX numbers it; 0 where it is not known."""
        if name in self.tensors:
            return int(self.tensors[name].data_type)
        value = self._declared.get(name)
        return 0 if value is None else int(value.type.tensor_type.elem_type)

    def computed(self, name: str) -> bool:
        """Whether a node or an input gives the tensor, and not the file."""
        return bool(name) and name not in self.tensors

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is known when the graph is built, computed from constants included."""
        return name in self._built

    def before(self, name: str, through: Container[str]) -> onnx.NodeProto | None:
        """Find the standard node that makes a tensor, seen through some operators; None beyond ``FAR`` of those."""
        node = self.maker.get(name)
        for _ in range(FAR):
            if node is None or not is_standard(node):
                return None
            if node.op_type not in through or not node.input:
                return node
            node = self.maker.get(node.input[0])
        return None


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether the operator is one of the standard's."""
    return node.domain in STANDARD


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """List the inputs that are no initializers (old producers list those as well)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Give the value of an attribute; a text as text."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute in place."""
    others = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*others, helper.make_attribute(name, value)])


def find(graph: onnx.GraphProto, output: str) -> int:
    """Give the position of the node that makes ``output``."""
    return next(i for i, node in enumerate(graph.node) if output in node.output)


def set_tensor(graph: onnx.GraphProto, name: str, value: Array) -> None:
    """Replace the value of a constant tensor in place, or add it."""
    new = numpy_helper.from_array(np.asarray(value, order="C"), name)
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
