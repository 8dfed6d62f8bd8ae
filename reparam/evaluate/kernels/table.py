"""Which of our kernels evaluates a node; the reference implementation of ONNX evaluates what has none here.

A kernel goes from attributes (tensors as arrays) and inputs (None where one is left out) to the output, or to a tuple
of outputs. By each stands the opset from which on it holds.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from attn_export.reparam.evaluate.claims import UnclaimedOperator
from attn_export.reparam.evaluate.kernels import (
    detection,
    norms,
    places,
    plain,
    quantised,
    recurrent,
    sampling,
    sequences,
    windows,
)

Kernel = Callable[[Mapping[str, Any], Sequence[Any]], Any]
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


#: What had attributes for broadcasting before opset 7.
_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": operator.add,
    "And": np.logical_and,
    "Div": lambda a, b: np.divide(a, b) if a.dtype.kind == "f" else (np.trunc(a / b)).astype(a.dtype),
    "Equal": operator.eq,
    "Greater": operator.gt,
    "Less": operator.lt,
    "Mul": operator.mul,
    "Or": np.logical_or,
    "Pow": operator.pow,
    "Sub": operator.sub,
    "Xor": np.logical_xor,
}


#: None stands for the reference implementation.
KERNELS: Mapping[str, Mapping[int, Kernel | None]] = {
    "AveragePool": {1: windows.average},
    "BatchNormalization": {1: norms.batch_norm},
    "BitCast": {1: plain.bits},
    "Cast": {1: plain.cast},
    "CastLike": {1: plain.cast_like},
    "ConcatFromSequence": {1: sequences.join},
    "Constant": {1: plain.constant},
    "Conv": {1: windows.convolve},
    "ConvInteger": {1: quantised.convolve},
    "ConvTranspose": {1: windows.convolve_transposed},
    "DeformConv": {19: detection.convolve_deformed},
    "DequantizeLinear": {1: quantised.dequantise},
    "Dropout": {1: plain.dropout_old, 7: plain.dropout},
    "DynamicQuantizeLinear": {1: quantised.quantise_dynamic},
    "Erf": {1: plain.erf},
    "GRU": {7: recurrent.gru},
    "Gelu": {1: plain.gelu},
    "GatherElements": {1: places.gather_elements},
    "GlobalAveragePool": {1: windows.average_global},
    "GlobalLpPool": {1: windows.power_global},
    "GlobalMaxPool": {1: windows.maximum_global},
    "GridSample": {1: sampling.grid_sample},
    "GroupNormalization": {18: norms.group_norm_by_group, 21: norms.group_norm},
    "HardSwish": {1: plain.hard_swish},
    "Hardmax": {1: norms.flattened(norms.hardmax), 13: norms.hardmax},
    "Identity": {1: sequences.identity},
    "ImageDecoder": {1: plain.picture},
    "InstanceNormalization": {1: norms.instance_norm},
    "LRN": {1: norms.local_response},
    "LSTM": {7: recurrent.lstm},
    "LayerNormalization": {1: norms.layer_norm},
    "LogSoftmax": {1: norms.flattened(norms.log_softmax), 13: norms.log_softmax},
    "LpNormalization": {1: norms.lp_norm},
    "LpPool": {2: windows.power},
    "MatMul": {1: plain.product},
    "MatMulInteger": {1: quantised.product},
    "MaxPool": {1: windows.maximum},
    "MeanVarianceNormalization": {1: norms.mean_variance},
    "Mish": {1: plain.mish},
    "NonMaxSuppression": {10: detection.suppress},
    "OneHot": {1: places.one_hot},
    "Optional": {1: sequences.optional},
    "OptionalGetElement": {1: sequences.get_element},
    "OptionalHasElement": {1: sequences.has_element},
    "PRelu": {1: plain.slope, 7: None},
    "Pad": {2: plain.padding},
    "QLinearConv": {1: quantised.convolve_linear},
    "QLinearMatMul": {1: quantised.product_linear},
    "QuantizeLinear": {1: quantised.quantise},
    "RMSNormalization": {1: norms.rms_norm},
    "RNN": {7: recurrent.rnn},
    "Resize": {10: sampling.resize_old, 11: sampling.resize},
    "Scatter": {9: places.scatter},
    "ScatterElements": {1: places.scatter},
    "ScatterND": {1: places.scatter_nd},
    "SequenceAt": {1: sequences.at},
    "SequenceConstruct": {1: sequences.construct},
    "SequenceEmpty": {1: sequences.empty},
    "SequenceErase": {1: sequences.erase},
    "SequenceInsert": {1: sequences.insert},
    "SequenceLength": {1: sequences.length},
    "Slice": {1: places.cut},
    "Softsign": {1: plain.softsign},
    "Softmax": {1: norms.flattened(norms.softmax), 13: norms.softmax},
    "SplitToSequence": {1: sequences.split},
    "Upsample": {7: sampling.resize_old},
    **{name: {1: plain.placed(function), 7: None} for name, function in _ARITHMETIC.items()},
}


def kernel_of(node: NodeProto, attributes: Mapping[str, Any], opset: int) -> Kernel | None:
    """Find the kernel that evaluates this node, or None where the reference implementation does.

    Raises:
        Refusal: the version of the operator, or what it is asked to do, is not claimed.
    """
    versions = KERNELS.get(node.op_type)
    if versions is None:
        return None
    known = [since for since in versions if since <= opset]
    if not known:
        raise UnclaimedOperator(f"only opsets from {min(versions)} on are known")
    kernel = versions[max(known)]
    return _SPECIAL[node.op_type](node, attributes, opset, kernel) if node.op_type in _SPECIAL else kernel


def _batch_norm(node: NodeProto, attributes: Mapping[str, Any], opset: int, usual: Kernel | None) -> Kernel | None:
    """By the batch's own statistics: an attribute says so, or from opset 7 to 13 the number of outputs."""
    outputs = sum(bool(name) for name in node.output)
    trained = (
        attributes.get("training_mode") if opset >= 14 else outputs > 1 if opset >= 7 else not attributes.get("is_test")
    )
    return norms.batch_norm_trained if trained else usual


def _maximum(node: NodeProto, _: Mapping[str, Any], __: int, usual: Kernel | None) -> Kernel | None:
    return windows.maximum_with_places if len(node.output) > 1 else usual


def _cast(_: NodeProto, attributes: Mapping[str, Any], __: int, usual: Kernel | None) -> Kernel | None:
    return usual if attributes["to"] in FLOATS else None


def _bits(_: NodeProto, attributes: Mapping[str, Any], __: int, usual: Kernel | None) -> Kernel | None:
    if attributes["to"] in FLOATS:
        raise UnclaimedOperator("bits make a number of the type that is named, which is not kept in this evaluation")
    return usual


_SPECIAL: Mapping[str, Callable[[NodeProto, Mapping[str, Any], int, Kernel | None], Kernel | None]] = {
    "BatchNormalization": _batch_norm,
    "BitCast": _bits,
    "Cast": _cast,
    "MaxPool": _maximum,
}
