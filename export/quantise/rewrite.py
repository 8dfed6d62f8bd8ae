"""Write a plan of codes into a graph, as pairs of QuantizeLinear and DequantizeLinear.

    x ─► QuantizeLinear ─► DequantizeLinear ─┐
                  codes ─► DequantizeLinear ─┴► Conv ─► Relu ─► QuantizeLinear ─► DequantizeLinear ─► …

Runtimes that compute in int8 find the layers between such pairs; all others compute what the graph says, in float. What
a layer gives is rounded for whatever reads it: a second reader in float would keep it from being int8 at all. A MatMul
may give float, so what it gives is rounded only for another layer. Biases stay float32: every runtime makes of them
what it needs.

A layer in float between two that are not is read through a Clip to what its input has codes for, which changes no
value. ONNX Runtime takes a float weight that stands directly between pairs for one that was forgotten, and rounds it
with one scale for all channels: of a RepVGG with 11 of 14 layers in float that left 27 dB of 46.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from attn_export.export.graph.index import GraphIndex, set_attribute
from attn_export.export.graph.unread import without_unread_constants
from attn_export.export.quantise.codes import Code
from attn_export.export.quantise.layers import Layer, axis_of, from_rows
from attn_export.types import Array


@dataclass(frozen=True)
class Weight:
    """The codes of one weight.

    Attributes:
        codes: int8, ``out in``.
        scales: float32, one for each row.
        bias: what is added instead of the layer's own, ``out``; None leaves that.
        whole: whether all rows have one scale, which is written once.
    """

    codes: Array
    scales: Array
    bias: Array | None = None
    whole: bool = False


@dataclass(frozen=True)
class Plan:
    """What is rounded to what.

    Attributes:
        weights: by the key of a layer; a layer that is not in it stays in float, and of one that has None only what it
            takes and gives is rounded, which shows what that alone costs.
        activations: by tensor.
        sums: whether whatever reads a tensor that is rounded for some layer reads it rounded. Sums of branches are then
            integers too, which is faster; else they are exact.
    """

    weights: Mapping[str, Weight | None] = field(default_factory=dict)
    activations: Mapping[str, Code] = field(default_factory=dict)
    sums: bool = True


def written(model: onnx.ModelProto, layers: tuple[Layer, ...], plan: Plan) -> onnx.ModelProto:
    """Return a model with pairs around the layers of a plan, which has a code for whatever they take."""
    graph = GraphIndex(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = _Names(graph)
    chosen = {layer.key: layer for layer in layers if layer.key in plan.weights}
    everywhere = {layer.gives for layer in chosen.values() if layer.ends_rounded and graph.readers.get(layer.gives)}
    read = {layer.reads for layer in chosen.values()}
    if plan.sums:
        everywhere |= read
    floats = {layer.key: layer for layer in layers if layer.key not in plan.weights and layer.ends_rounded}
    pairs: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def pair(tensor: str) -> None:
        new, more = _pair(names, tensor, plan.activations[tensor])
        pairs[tensor] = new[-1].output[0]
        nodes.extend(new)
        constants.extend(more)

    for port in graph.inputs:
        if port.name in read:
            pair(port.name)
    for old, node in zip(graph.nodes, result.graph.node, strict=True):
        layer = chosen.get(old.output[0]) if old.output else None
        for index, name in enumerate(old.input):
            if name in pairs and (name in everywhere or (layer is not None and index == 0)):
                node.input[index] = pairs[name]
        if layer is not None and (weight := plan.weights[layer.key]) is not None:
            new, more = _weight(names, layer, old, weight, graph)
            node.input[1] = new.output[0]
            if weight.bias is not None:
                _set_bias(node, layer, weight.bias, names, more)
            nodes.append(new)
            constants.extend(more)
        kept = floats.get(old.output[0]) if old.output else None
        if kept is not None and node.input[0] in pairs.values() and kept.gives in read | everywhere:
            new, more = _clip(names, kept.reads, node.input[0], plan.activations[kept.reads])
            node.input[0] = new.output[0]
            nodes.append(new)
            constants.extend(more)
        nodes.append(node)
        for name in old.output:
            if name in read or (name in everywhere and name in plan.activations):
                pair(name)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(copies)
    result.graph.initializer.extend(constants)
    without_unread_constants(result)
    return result


def rounded_name(model: onnx.ModelProto, tensor: str) -> str:
    """Give the name under which a tensor is read behind its pair; its own where it has none."""
    codes = next((n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor), "")
    back = (n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == codes)
    return next(back, tensor) if codes else tensor


class _Names:
    """Names that no tensor has yet."""

    def __init__(self, graph: GraphIndex) -> None:
        self.taken = {*graph.tensors, *graph.maker, *(port.name for port in graph.inputs)}

    def fresh(self, text: str) -> str:
        while text in self.taken:
            text += "_"
        self.taken.add(text)
        return text


def _pair(names: _Names, tensor: str, by: Code) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    scale, zero = names.fresh(f"{tensor}_scale"), names.fresh(f"{tensor}_zero_point")
    codes, back = names.fresh(f"{tensor}_codes"), names.fresh(f"{tensor}_rounded")
    kind = np.uint8 if by.unsigned else np.int8
    constants = [
        numpy_helper.from_array(np.asarray(by.scale, np.float32), scale),
        numpy_helper.from_array(np.asarray(by.zero_point, kind), zero),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], codes),
        helper.make_node("DequantizeLinear", [codes, scale, zero], [back], back),
    ]
    return nodes, constants


def _clip(names: _Names, tensor: str, rounded: str, by: Code) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """Make a node that gives what it takes."""
    low, high, out = (names.fresh(f"{tensor}_{end}") for end in ("low", "high", "unchanged"))
    ends = [numpy_helper.from_array(np.asarray(v, np.float32), n) for v, n in ((by.low, low), (by.high, high))]
    return helper.make_node("Clip", [rounded, low, high], [out], out), ends


def _weight(
    names: _Names, layer: Layer, node: onnx.NodeProto, weight: Weight, graph: GraphIndex
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    stem = f"{layer.weight}_of_{layer.node}" if len(graph.readers[layer.weight]) > 1 else layer.weight
    codes, scale, zero = (names.fresh(f"{stem}_{end}") for end in ("codes", "scale", "zero_point"))
    value = from_rows(layer, node, weight.codes, tuple(graph.tensors[layer.weight].dims))
    scales = weight.scales[0] if weight.whole else weight.scales  # one for all is no vector of equals
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(value), codes),
        numpy_helper.from_array(np.asarray(scales, np.float32), scale),
        numpy_helper.from_array(np.zeros(scales.shape, np.int8), zero),
    ]
    back = names.fresh(f"{stem}_rounded")
    made = helper.make_node("DequantizeLinear", [codes, scale, zero], [back], back)
    if scales.shape:
        set_attribute(made, "axis", axis_of(layer, node))
    return made, constants


def _set_bias(
    node: onnx.NodeProto, layer: Layer, bias: Array, names: _Names, constants: list[onnx.TensorProto]
) -> None:
    name = names.fresh(f"{layer.bias or layer.key}_corrected")
    constants.append(numpy_helper.from_array(np.asarray(bias, np.float32), name))
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)
