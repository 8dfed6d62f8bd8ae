"""Which nodes could compute in int8: those that multiply what is computed by a constant weight.

A product of two computed tensors (the scores of an attention) stays in float: its rounding is what attention loses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from attn_export.export.graph.index import GraphIndex, attribute, is_standard
from attn_export.types import Array

#: What lies between a layer and the rounding of what it gives: runtimes take these into the layer.
ABSORBED = frozenset({"Relu", "Clip"})
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Layer:
    """One node with a constant weight.

    Attributes:
        key: the tensor that it gives, which names it.
        node: its name.
        op: its operator.
        reads: the tensor that it takes.
        weight: its constant.
        bias: the constant that it adds; empty without one.
        gives: what comes of it, through an activation that only it feeds.
    """

    key: str
    node: str
    op: str
    reads: str
    weight: str
    bias: str
    gives: str

    @property
    def ends_rounded(self) -> bool:
        """Whether runtimes compute it in int8 only where what it gives is rounded as well."""
        return self.op != "MatMul"


def layers(graph: GraphIndex) -> tuple[Layer, ...]:
    """Find the layers of a graph, in its order."""
    outputs = {port.name for port in graph.graph.output}
    return tuple(
        Layer(
            node.output[0],
            node.name or node.output[0],
            node.op_type,
            node.input[0],
            node.input[1],
            node.input[2] if len(node.input) > 2 else "",
            _gives(graph, node, outputs),
        )
        for node in graph.nodes
        if _is_layer(graph, node)
    )


def _is_layer(graph: GraphIndex, node: onnx.NodeProto) -> bool:
    if node.op_type not in _LAYERS or not is_standard(node) or len(node.output) != 1:
        return False
    weight = graph.tensors.get(node.input[1])
    if weight is None or weight.data_type != TensorProto.FLOAT or not graph.computed(node.input[0]):
        return False
    if len(node.input) > 2 and node.input[2] and node.input[2] not in graph.tensors:
        return False
    if node.op_type == "MatMul":
        return len(weight.dims) == 2
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        return plain and not attribute(node, "transA", 0)
    return node.op_type == "Conv" or attribute(node, "group", 1) == 1


def _gives(graph: GraphIndex, node: onnx.NodeProto, outputs: Iterable[str]) -> str:
    name: str = node.output[0]
    readers = graph.readers.get(name, [])
    if name not in outputs and len(readers) == 1:
        reader = readers[0]
        if reader.op_type in ABSORBED and is_standard(reader) and reader.input[0] == name:
            return str(reader.output[0])
    return name


def kept_in_float(graph: GraphIndex, found: Iterable[Layer]) -> dict[str, str]:
    """Say of layers, by key, why they are not even tried in int8."""
    outputs = {port.name for port in graph.graph.output}
    return {
        layer.key: f"it gives the output {layer.gives!r}, which eight bits would round"
        for layer in found
        if layer.ends_rounded and layer.gives in outputs
    }


def rows_of(layer: Layer, node: onnx.NodeProto, weight: Array) -> Array:
    """Bring a weight into the form ``out in``; see ``from_rows``."""
    match layer.op:
        case "Conv":
            return weight.reshape(len(weight), -1)
        case "ConvTranspose":
            return np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)
        case "Gemm" if attribute(node, "transB", 0):
            return weight
        case _:
            return np.ascontiguousarray(weight.T)


def from_rows(layer: Layer, node: onnx.NodeProto, rows: Array, like: tuple[int, ...]) -> Array:
    """Bring rows ``out in`` back into the form of the weight."""
    match layer.op:
        case "Conv":
            return rows.reshape(like)
        case "ConvTranspose":
            return np.ascontiguousarray(np.moveaxis(rows.reshape(like[1], like[0], *like[2:]), 0, 1))
        case "Gemm" if attribute(node, "transB", 0):
            return rows
        case _:
            return np.ascontiguousarray(rows.T)


def axis_of(layer: Layer, node: onnx.NodeProto) -> int:
    """Give the axis of a weight that counts output channels."""
    if layer.op == "Conv" or (layer.op == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return 1
