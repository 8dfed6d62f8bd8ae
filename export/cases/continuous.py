"""Operators whose results never jump: a network of these alone needs no search for jumps.

Where it is their arguments that say so: a division by numbers that are known, and a norm whose epsilon is far above
what a search moves its input by, which is what it divides by where its input is constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from attn_export.export.graph.index import GraphIndex, attribute
from attn_export.types import Array

#: By PyTorch's names, without the underscore of those that work in place.
_TORCH = frozenset(
    """
    _adaptive_avg_pool2d _conv_depthwise2d _native_batch_norm_legit_no_training _slow_conv2d_forward _softmax
    _unsafe_view abs adaptive_avg_pool2d add addmm alias arange avg_pool2d batch_norm bmm cat chunk clone
    constant_pad_nd contiguous convolution detach elu empty expand flatten full full_like gather gelu hardsigmoid
    hardswish hardtanh index index_select leaky_relu lift_fresh linear matmul max_pool2d_with_indices mean mish
    mkldnn_convolution mkldnn_linear mm mul narrow native_batch_norm neg new_full new_ones new_zeros ones ones_like
    permute pixel_shuffle pixel_unshuffle reflection_pad2d relu replication_pad2d reshape roll select sigmoid silu
    slice slow_conv2d_forward softplus split split_with_sizes squeeze stack sub sum t tanh thnn_conv2d transpose
    unbind unfold unsqueeze upsample_bilinear2d upsample_nearest2d view zeros zeros_like
    """.split()  # noqa: SIM905
)
#: The least epsilon: its root is a thousand times what inputs are moved by at most.
_EPSILON = 1e-6
#: By PyTorch's names, which argument is the epsilon.
_NORMS = {"native_layer_norm": 4, "native_group_norm": 7}
#: By ONNX's names.
_ONNX = frozenset(
    """
    Abs Add AveragePool BatchNormalization Clip Concat Constant ConstantOfShape Conv ConvTranspose DepthToSpace
    Dropout Elu Erf Expand Flatten Gather Gelu Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity
    LeakyRelu MatMul Max MaxPool Mean Min Mish Mul Neg PRelu Pad ReduceMax ReduceMean ReduceSum Relu Reshape Resize
    Shape Sigmoid Slice Softmax Softplus SpaceToDepth Split Squeeze Sub Sum Tanh Transpose Unsqueeze
    """.split()  # noqa: SIM905
)


def torch_operator(name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> bool:
    """Whether an operator of PyTorch's never jumps when it is called so.

    >>> torch_operator("relu_"), torch_operator("argmax")
    (True, False)
    """
    plain = name.removesuffix("_")
    if plain == "div":
        return len(args) > 1 and isinstance(args[1], float | int) and bool(args[1]) and not kwargs
    if (place := _NORMS.get(plain)) is not None:
        return len(args) > place and bool(args[place] >= _EPSILON)
    return name in _TORCH or plain in _TORCH


def graph(index: GraphIndex) -> bool:
    """Whether no operator of a graph jumps on floating-point numbers; of one that holds a graph, that is not known."""
    return all(_node(node, index) for node in index.nodes)


def _node(node: onnx.NodeProto, index: GraphIndex) -> bool:
    if node.op_type == "Div":
        divisor = _known(node.input[1], index)
        return divisor is not None and bool(np.all(divisor != 0))
    if node.op_type in ("LayerNormalization", "InstanceNormalization", "GroupNormalization"):
        return float(attribute(node, "epsilon", 1e-5)) >= _EPSILON
    return node.op_type in _ONNX


def _known(name: str, index: GraphIndex) -> Array | None:
    """Give the value of a tensor that is written in the graph."""
    if name in index.tensors:
        return index.array(name)
    maker = index.maker.get(name)
    value = attribute(maker, "value") if maker is not None and maker.op_type == "Constant" else None
    return None if value is None else numpy_helper.to_array(value)
