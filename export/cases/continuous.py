"""Operators whose results never jump: a network of these alone needs no search for jumps."""

from __future__ import annotations

#: By PyTorch's names, without the underscore of those that work in place.
_TORCH = frozenset(
    """
    _adaptive_avg_pool2d _conv_depthwise2d _native_batch_norm_legit_no_training _slow_conv2d_forward _softmax
    _unsafe_view abs adaptive_avg_pool2d add addmm alias avg_pool2d batch_norm bmm cat chunk clone constant_pad_nd
    contiguous convolution detach elu empty expand flatten full gelu hardsigmoid hardswish hardtanh leaky_relu
    linear matmul max_pool2d_with_indices mean mish mkldnn_convolution mkldnn_linear mm mul narrow native_batch_norm
    neg ones permute pixel_shuffle pixel_unshuffle reflection_pad2d relu replication_pad2d reshape select sigmoid
    silu slice slow_conv2d_forward softplus split split_with_sizes squeeze stack sub sum t tanh thnn_conv2d
    transpose unsqueeze upsample_bilinear2d upsample_nearest2d view zeros
    """.split()  # noqa: SIM905
)
#: By ONNX's names.
_ONNX = frozenset(
    """
    Abs Add AveragePool BatchNormalization Clip Concat Constant ConstantOfShape Conv ConvTranspose DepthToSpace
    Dropout Elu Erf Expand Flatten Gelu Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity
    LeakyRelu MatMul MaxPool Mean Mish Mul Neg PRelu Pad ReduceMean ReduceSum Relu Reshape Shape Sigmoid Slice
    Softmax Softplus SpaceToDepth Split Squeeze Sub Sum Tanh Transpose Unsqueeze
    """.split()  # noqa: SIM905
)


def torch_operator(name: str) -> bool:
    """Whether an operator of PyTorch's never jumps.

    >>> torch_operator("relu_"), torch_operator("argmax")
    (True, False)
    """
    return name in _TORCH or name.removesuffix("_") in _TORCH


def onnx_operator(name: str) -> bool:
    """Whether an operator of ONNX's never jumps, on floating-point numbers."""
    return name in _ONNX
