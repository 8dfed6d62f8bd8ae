"""The operators that matter, on PyTorch's kernels in whatever precision the arrays have.

The reference implementation of ONNX is slow on some of these, computes others in float32 whatever it is given, and is
wrong on one (a transposed convolution that does not change the number of channels).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from attn_export.reparam.proof.kernels_quantised import dequantise, quantise

Array = NDArray[Any]
#: From attributes and inputs (None where one is left out) to the first output, or to a tuple of all.
Kernel = Callable[[dict[str, Any], Sequence[Array | None]], Array | tuple[Array, ...]]


def _tensors(arguments: Sequence[Array | None]) -> list[torch.Tensor | None]:
    return [None if a is None else torch.from_numpy(np.ascontiguousarray(a)) for a in arguments]


def _conv(attributes: dict[str, Any], arguments: Sequence[Array | None]) -> Array:
    x, weight, bias = (*_tensors(arguments), None)[:3]
    assert x is not None
    assert weight is not None
    steps, gaps, pads = _window(attributes, x, weight.shape[2:])
    convolve = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    return _array(convolve(_pad(x, pads, 0.0), weight, bias, steps, 0, gaps, attributes.get("group", 1)))


def _conv_transpose(attributes: dict[str, Any], arguments: Sequence[Array | None]) -> Array:
    x, weight, bias = (*_tensors(arguments), None)[:3]
    assert x is not None
    assert weight is not None
    if "output_shape" in attributes or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise NotImplementedError("ConvTranspose with output_shape or auto_pad")
    steps, gaps, pads = _window(attributes, x, weight.shape[2:])
    extra = attributes.get("output_padding", [0] * len(steps))
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[x.ndim - 3]
    y = convolve(x, weight, bias, steps, 0, extra, attributes.get("group", 1), gaps)
    return _array(_pad(y, [-p for p in pads], 0.0))


def _average(attributes: dict[str, Any], arguments: Sequence[Array | None]) -> Array:
    (x,) = _tensors(arguments)
    assert x is not None
    kernel = attributes["kernel_shape"]
    steps, gaps, pads = _window(attributes, x, kernel)
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    weight = torch.ones((1, 1, *kernel), dtype=x.dtype)
    count = convolve(_pad(ones, pads, float(attributes.get("count_include_pad", 0))), weight, None, steps, 0, gaps)
    total = convolve(_pad(x.flatten(0, 1).unsqueeze(1), pads, 0.0), weight, None, steps, 0, gaps) / count
    return _array(total.reshape(*x.shape[:2], *total.shape[2:]))


def _maximum(attributes: dict[str, Any], arguments: Sequence[Array | None]) -> Array:
    (x,) = _tensors(arguments)
    assert x is not None
    kernel = attributes["kernel_shape"]
    steps, gaps, pads = _window(attributes, x, kernel)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.ndim - 3]
    return _array(pool(_pad(x, pads, float("-inf")), kernel, steps, 0, gaps))


def _grid_sample(attributes: dict[str, Any], arguments: Sequence[Array | None]) -> Array:
    # The reference implementation knows only the names that newer opsets have for the modes.
    x, grid = _tensors(arguments)
    assert x is not None
    assert grid is not None
    mode = attributes.get("mode", b"linear").decode()
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding, corners = attributes.get("padding_mode", b"zeros").decode(), bool(attributes.get("align_corners", 0))
    return _array(F.grid_sample(x, grid, mode, padding, corners))


def _window(
    attributes: dict[str, Any], x: torch.Tensor, kernel: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations, and the padding before every axis and then after every axis."""
    rank = x.ndim - 2
    steps, gaps = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    pads = attributes.get("pads", [0] * 2 * rank)
    if (auto := attributes.get("auto_pad", b"NOTSET")) in (b"SAME_UPPER", b"SAME_LOWER"):
        pads = _same(x.shape[2:], kernel, steps, gaps, lower=auto == b"SAME_LOWER")
    return steps, gaps, pads


def _pad(x: torch.Tensor, pads: Sequence[int], value: float) -> torch.Tensor:
    rank = len(pads) // 2
    flat = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]
    return F.pad(x, flat, value=value) if any(flat) else x


def _array(y: torch.Tensor) -> Array:
    return np.asarray(y.numpy())


def _same(
    shape: Sequence[int], kernel: Sequence[int], steps: Sequence[int], gaps: Sequence[int], *, lower: bool
) -> list[int]:
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(shape, kernel, steps, gaps, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*large, *small] if lower else [*small, *large]


def _product(_: dict[str, Any], arguments: Sequence[Array | None]) -> Array:
    a, b = _tensors(arguments)
    assert a is not None
    assert b is not None
    return np.asarray(torch.matmul(a, b).numpy())


def _erf(_: dict[str, Any], arguments: Sequence[Array | None]) -> Array:
    (x,) = _tensors(arguments)
    assert x is not None
    return np.asarray(torch.erf(x).numpy())


def _layer_norm(attributes: dict[str, Any], arguments: Sequence[Array | None]) -> tuple[Array, ...]:
    # The reference implementation computes in float32 whatever it is given.
    x, scale, bias = (*arguments, None)[:3]
    assert x is not None
    assert scale is not None
    axes = tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    deviation = np.sqrt((centred**2).mean(axes, keepdims=True) + attributes.get("epsilon", 1e-5))
    y = centred / deviation * scale
    return np.asarray(y if bias is None else y + bias), np.asarray(mean), np.asarray(1 / deviation)


def _batch_norm(attributes: dict[str, Any], arguments: Sequence[Array | None]) -> Array:
    # Before opset 14 the reference implementation takes the batch's own statistics.
    x, *rest = arguments
    assert x is not None
    shape = (-1, *(1,) * (x.ndim - 2))
    scale, bias, mean, variance = (np.asarray(value).reshape(shape) for value in rest)
    return np.asarray((x - mean) / np.sqrt(variance + attributes.get("epsilon", 1e-5)) * scale + bias)


def _padding(attributes: dict[str, Any], arguments: Sequence[Array | None]) -> Array:
    # The reference implementation refuses negative amounts, which crop.
    x, pads, value, axes = (*arguments, None, None, None)[:4]
    assert x is not None
    amounts = [int(n) for n in (attributes["pads"] if pads is None else pads)]
    where = [int(axis) % x.ndim for axis in (range(x.ndim) if axes is None else axes)]
    count, crop, grow = len(amounts) // 2, [slice(None)] * x.ndim, [(0, 0)] * x.ndim
    for place, axis in enumerate(where):
        left, right = amounts[place], amounts[place + count]
        crop[axis] = slice(max(0, -left), x.shape[axis] - max(0, -right))
        grow[axis] = (max(0, left), max(0, right))
    mode = attributes.get("mode", b"constant").decode()
    if mode != "constant":
        return np.asarray(np.pad(x[tuple(crop)], grow, mode=mode))
    fill = attributes.get("value", 0.0) if value is None or not value.size else value.reshape(-1)[0]
    return np.asarray(np.pad(x[tuple(crop)], grow, constant_values=fill))


KERNELS: Mapping[str, Kernel] = {
    "AveragePool": _average,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": dequantise,
    "Erf": _erf,
    "GridSample": _grid_sample,
    "LayerNormalization": _layer_norm,
    "MatMul": _product,
    "MaxPool": _maximum,
    "Pad": _padding,
    "QuantizeLinear": quantise,
}

#: Those that give every output; the others give the first.
WHOLE = frozenset({"LayerNormalization"})
