"""Bring the channels of an activation to one range, exactly, so that one scale for all of them serves each.

    y = relu(W x + b),  z = V y      is      y' = relu(2ᵉ W x + 2ᵉ b),  z = (V 2⁻ᵉ) y'

with an exponent for each channel (Nagel et al., Data-free quantization through weight equalization and bias
correction, ICCV 2019, section 4.1, by the ranges of activations and not of weights, and by powers of two, which no
float32 loses a bit of). A channel that is small is made larger, up to ``alpha`` of the way to the largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from attn_export.export.graph.index import GraphIndex, attribute, set_tensor
from attn_export.export.precision.equalise import times_power
from attn_export.export.quantise.layers import Layer, axis_of
from attn_export.types import Array

#: The most that a channel is multiplied by, as a power of two.
MOST = 5


def channels(found: Sequence[Layer], graph: GraphIndex) -> dict[str, tuple[Layer, tuple[Layer, ...]]]:
    """List the tensors whose channels can be scaled: who gives each, and who reads it."""
    outputs = {port.name for port in graph.graph.output}
    once = [layer for layer in found if len(graph.readers[layer.weight]) == 1]
    once = [layer for layer in once if not layer.bias or len(graph.readers[layer.bias]) == 1]
    makers = {layer.gives: layer for layer in once if layer.op == "Conv" and _homogeneous(graph, layer)}
    possible = {}
    for name, maker in makers.items():
        readers = [layer for layer in once if layer.reads == name and layer.op == "Conv"]
        if name not in outputs and readers and len(readers) == len(graph.readers.get(name, [])):
            possible[name] = maker, tuple(readers)
    return possible


def _homogeneous(graph: GraphIndex, layer: Layer) -> bool:
    """Whether what lies between the layer and what is rounded lets a positive factor through."""
    return layer.gives == layer.key or graph.maker[layer.gives].op_type == "Relu"


def exponents(largest: Array, alpha: float) -> Array:
    """Choose the exponent of each channel from the largest value of each.

    >>> exponents(np.float64([8, 1, 0, 7]), 1.0)
    array([0, 3, 0, 0])
    """
    known = largest > 0
    most = float(largest.max(initial=0.0))
    ratio = np.where(known, most / np.where(known, largest, 1.0), 1.0)
    return np.asarray(np.clip(np.floor(alpha * np.log2(ratio)), 0, MOST), np.int64)


def levelled(
    model: onnx.ModelProto, found: Sequence[Layer], largest: Mapping[str, Array], alpha: float
) -> onnx.ModelProto | None:
    """Return a model that computes the same with channels of more equal ranges; None where none can be made so.

    Args:
        model: float32.
        found: its layers.
        largest: by tensor, the largest magnitude of each channel on calibration data.
        alpha: how far small channels are raised, 0 to 1.
    """
    graph = GraphIndex(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights: dict[str, Array] = {}
    for name, (maker, readers) in channels(found, graph).items():
        power = exponents(largest[name], alpha)
        changed = _scaled(graph, maker, readers, power, weights)
        if changed is not None:
            weights |= changed
    for name, value in weights.items():
        set_tensor(result.graph, name, value)
    return result if weights else None


def _scaled(
    graph: GraphIndex, maker: Layer, readers: Sequence[Layer], power: Array, made: Mapping[str, Array]
) -> dict[str, Array] | None:
    """Give the new constants around one tensor, or None where nothing changes or a bit would be lost."""
    if not power.any():
        return None

    def value(name: str) -> Array:
        return np.asarray(made[name] if name in made else numpy_helper.to_array(graph.tensors[name]))

    changed = {maker.weight: _along(value(maker.weight), power, 0)}
    if maker.bias:
        changed[maker.bias] = _along(value(maker.bias), power, 0)
    for reader in readers:
        node = graph.maker[reader.key]
        groups = int(attribute(node, "group", 1))
        weight = value(reader.weight)
        if groups == 1:
            changed[reader.weight] = _along(weight, -power, 1 - axis_of(reader, node))
        elif groups == len(power) == len(weight):
            changed[reader.weight] = _along(weight, -power, 0)
        else:
            return None
    return None if any(new is None for new in changed.values()) else {k: v for k, v in changed.items() if v is not None}


def _along(value: Array, power: Array, axis: int) -> Array | None:
    """Multiply by a power of two for each place along an axis; None where a bit would be lost."""
    result = np.array(value)
    for step in np.unique(power[power != 0]):
        where = tuple(np.nonzero(power == step)[0] if index == axis else slice(None) for index in range(value.ndim))
        new = times_power(np.ascontiguousarray(value[where]), int(step))
        if new is None:
            return None
        result[where] = new
    return result
