"""Which operator of a ``.tflite`` file is which layer of the ONNX graph: the one with the same weights.

Names do not survive the way through PyTorch, and weights do: transposed, and to the last bits of float32. LiteRT takes
the scale and shift of a LayerNormalization into the matrix behind it; there the weights are those, multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attn_export.export.converters.litert.flatbuffer import File
from attn_export.export.quantise.pairs import LayerCodes
from attn_export.types import Array

#: Operators with a constant weight, by the axis of it that counts output channels.
CHANNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
#: How far weights that were fused twice may be apart, as a share of the largest.
NEAR = 1e-5
#: Activations within an operator, by LiteRT's numbers.
NONE, RELU, RELU6 = 0, 1, 3


@dataclass(frozen=True)
class Counterpart:
    """One operator of the file and its layer.

    Attributes:
        operator: as the file has it.
        layer: what the int8 graph says of it.
        added: what the file adds more than the layer does: a constant that stood behind it, 0 for nothing.
        norm: scale and shift that the file has taken into the operator; None where it took none.
    """

    operator: Any
    layer: LayerCodes
    added: float
    norm: tuple[Array, Array] | None = None


def matched(file: File, layers: Sequence[LayerCodes]) -> tuple[tuple[Counterpart, ...], dict[str, str]]:
    """Pair operators with layers; of layers that are not paired say why, by name."""
    found: dict[int, Counterpart] = {}
    left: dict[str, str] = {}
    operators = [one for one in file.operators if file.name(one) in CHANNELS]
    for layer in layers:
        why = "the file has no operator with its weights"
        for operator in operators:
            if id(operator) in found or (norm := _taken_in(file, operator, layer)) is None:
                continue
            added = _added(file, operator, layer, norm)
            if added is None:
                why = "the file adds another bias to it"
                continue
            found[id(operator)] = Counterpart(operator, layer, added, norm or None)
            break
        else:
            left[layer.layer.node] = why
    return tuple(found[id(one)] for one in operators if id(one) in found), left


def form(file: File, operator: Any, weight: Array, layer: LayerCodes) -> Array | None:
    """Bring a weight of ONNX's form, or its codes, into the file's; None where it has another number of values."""
    shape = file.shape(int(operator.inputs[1]))
    if weight.size != np.prod(shape):
        return None
    if layer.layer.op in ("Gemm", "MatMul"):
        rows = weight if layer.transposed else weight.T
    elif layer.layer.op == "Conv":
        rows = np.moveaxis(weight, 1, -1)  # o i ... to o ... i
        if file.name(operator) == "DEPTHWISE_CONV_2D":
            rows = np.moveaxis(rows, 0, -1)
    else:
        return None
    return np.ascontiguousarray(rows).reshape(shape)


def _taken_in(file: File, operator: Any, layer: LayerCodes) -> tuple[Array, Array] | tuple[()] | None:
    """Say which norm the file has taken into an operator with the layer's weights; () for none, None for others."""
    weight, own = file.constant(int(operator.inputs[1])), form(file, operator, layer.float_weight, layer)
    if weight is None or own is None:
        return None
    if _same(weight, own):
        return ()
    norm = layer.norm
    taken = norm is not None and file.name(operator) == "FULLY_CONNECTED" and _same(weight, own * norm[0])
    return norm if taken else None


def _same(weight: Array, other: Array) -> bool:
    return bool(np.abs(weight - other).max(initial=0.0) <= NEAR * np.abs(weight).max(initial=0.0))


def _added(file: File, operator: Any, layer: LayerCodes, norm: tuple[Array, Array] | tuple[()]) -> float | None:
    """Say what constant the file adds beyond the layer's bias; None where it is no constant."""
    has = file.constant(int(operator.inputs[2])) if len(operator.inputs) > 2 else None
    own = 0.0 if layer.float_bias is None else layer.float_bias
    if norm:
        own = own + form(file, operator, layer.float_weight, layer) @ norm[1]
    more = np.atleast_1d((0.0 if has is None else has) - own)
    middle = float(np.median(more))
    size = max(1.0, float(np.abs(has).max(initial=0.0)) if has is not None else 0.0)
    if np.abs(more - middle).max(initial=0.0) > NEAR * size * 10:
        return None
    return 0.0 if abs(middle) <= NEAR * size * 10 else middle
