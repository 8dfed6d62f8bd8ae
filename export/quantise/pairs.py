"""What an int8 graph says of each of its layers, read from its pairs: for writers of formats that have no pairs.

rounded layer     codes of its weight, their scales, the codes of what it takes and gives
float layer       its weight as it stands: channels may have been levelled, so it is not the float model's
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from attn_export.errors import ExportError
from attn_export.export.graph.index import GraphIndex, attribute
from attn_export.export.quantise.codes import Code
from attn_export.export.quantise.layers import Layer, axis_of, layers
from attn_export.types import Array


@dataclass(frozen=True)
class LayerCodes:
    """One layer of a float model, and what became of it in int8.

    Attributes:
        layer: as the float model has it.
        transposed: whether a matrix has its outputs first.
        norm: scale and shift of the LayerNormalization that gives what it takes; None where none does.
        float_weight: of the float model, in ONNX's form.
        float_bias: of the float model, ``out``; None without one.
        codes: of the weight, int8 in ONNX's form; None where the layer computes in float.
        scales: of the codes, one for each output channel or a single one; None where the layer computes in float.
        weight: what a layer in float multiplies by; None where it computes in int8.
        bias: what it adds, float32 ``out``; None without one.
    """

    layer: Layer
    transposed: bool
    norm: tuple[Array, Array] | None
    float_weight: Array
    float_bias: Array | None
    codes: Array | None
    scales: Array | None
    weight: Array | None
    bias: Array | None

    @property
    def means(self) -> Array:
        """What the layer multiplies by: its weight, or what its codes mean, in ONNX's form."""
        if self.codes is None or self.scales is None:
            assert self.weight is not None
            return self.weight
        axis = 0 if self.transposed else 1
        sizes = [-1 if index == axis else 1 for index in range(self.codes.ndim)]
        scales = self.scales.reshape(sizes) if self.scales.size > 1 else self.scales
        return np.asarray(self.codes * scales, np.float32)


@dataclass(frozen=True)
class Pairs:
    """An int8 graph without its pairs.

    Attributes:
        layers: every layer with a constant weight, in the graph's order.
        rounded: by tensor, the codes that it is rounded to.
        exact: tensors that are rounded for some of their readers alone.
    """

    layers: tuple[LayerCodes, ...]
    rounded: Mapping[str, Code]
    exact: frozenset[str]


def read(plain: onnx.ModelProto, quantised: onnx.ModelProto) -> Pairs:
    """Read an int8 graph beside the float graph that it was made from.

    Raises:
        ExportError: it is not made from that graph, or the two of a pair disagree.
    """
    before, after = GraphIndex(plain), GraphIndex(quantised)
    try:
        rounded = dict(_rounded(after))
        found = tuple(_layer(layer, before, after) for layer in layers(before))
    except KeyError as error:
        raise ExportError(
            f"expected an int8 graph with the tensors of the float one, got one without {error}"
        ) from error
    exact = {name for name in rounded if len(after.readers[name]) > 1 or _is_output(after, name)}
    return Pairs(found, rounded, frozenset(exact))


def _is_output(graph: GraphIndex, name: str) -> bool:
    return any(port.name == name for port in graph.graph.output)


def _rounded(graph: GraphIndex) -> Iterable[tuple[str, Code]]:
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            known = _code(graph, node)
            if any(_code(graph, reader) != known for reader in graph.readers.get(node.output[0], ())):
                raise ExportError(f"expected pairs with one scale and zero point, got two of {node.input[0]!r}")
            yield node.input[0], known


def _code(graph: GraphIndex, node: onnx.NodeProto) -> Code:
    scale, zero = (np.asarray(graph.array(name)) for name in node.input[1:3])
    return Code(float(scale.reshape(())), int(zero.reshape(())), unsigned=zero.dtype == np.uint8)


def _layer(layer: Layer, before: GraphIndex, after: GraphIndex) -> LayerCodes:
    node = after.maker[layer.key]
    transposed = axis_of(layer, node) == 0
    norm = _norm(layer, before)
    bias = np.asarray(after.array(node.input[2])) if len(node.input) > 2 and node.input[2] else None
    float_bias = np.asarray(before.array(layer.bias)) if layer.bias else None
    weight, plain = node.input[1], np.asarray(before.array(layer.weight))
    if weight in after.tensors:
        return LayerCodes(layer, transposed, norm, plain, float_bias, None, None, np.asarray(after.array(weight)), bias)
    codes, scales = after.maker[weight].input[:2]
    return LayerCodes(
        layer,
        transposed,
        norm,
        plain,
        float_bias,
        np.asarray(after.array(codes)),
        np.asarray(after.array(scales)).ravel(),
        None,
        bias,
    )


def _norm(layer: Layer, graph: GraphIndex) -> tuple[Array, Array] | None:
    """Find the norm over the last axis whose numbers a layer takes, be they reshaped."""
    name = layer.reads
    while (node := graph.maker.get(name)) is not None and node.op_type == "Reshape":
        name = node.input[0]
    if node is None or node.op_type != "LayerNormalization" or attribute(node, "axis", -1) != -1:
        return None
    if len(node.input) < 3 or any(part not in graph.tensors for part in node.input[1:3]):
        return None
    scale, shift = (np.asarray(graph.array(part)) for part in node.input[1:3])
    return scale, shift
