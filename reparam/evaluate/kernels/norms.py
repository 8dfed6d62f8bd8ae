"""Normalisations and softmaxes, each as the version of the standard that the model names has it.

The reference implementation computes some of these in float32 whatever it is given, and knows only the newest version
of the others: a softmax before opset 13 is over everything from its axis on, not along it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F

from attn_export.reparam.evaluate.tensors import array_of, tensor_of
from attn_export.types import Array

_Kernel = Callable[[Mapping[str, Any], Sequence[Array | None]], Array]
#: Defaults of the standard are float32 numbers.
_EPSILON = float(np.float32(1e-5))


def softmax(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Along one axis. A row of −∞ alone is NaN, as it is in PyTorch and ONNX Runtime."""
    (x,) = arguments
    assert x is not None
    axis = int(attributes.get("axis", -1))
    if not x.size:
        return x
    raised = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis, keepdims=True))


def log_softmax(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Compute the logarithm of ``softmax``, without computing that."""
    (x,) = arguments
    assert x is not None
    axis = int(attributes.get("axis", -1))
    if not x.size:
        return x
    shifted = x - x.max(axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis, keepdims=True)))


def hardmax(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """1 at the first largest along one axis, 0 elsewhere."""
    (x,) = arguments
    assert x is not None
    axis = int(attributes.get("axis", -1))
    y = np.zeros_like(x)
    if x.size:
        np.put_along_axis(y, np.expand_dims(x.argmax(axis), axis), 1, axis)
    return y


def flattened(kernel: _Kernel) -> _Kernel:
    """Do the same before opset 13: the array is made a matrix at its axis (1 if none is named), each row is taken."""

    def run(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
        (x,) = arguments
        assert x is not None
        axis = int(attributes.get("axis", 1))
        axis = axis + x.ndim if axis < 0 else axis
        rows = x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))
        return kernel({"axis": 1}, [rows]).reshape(x.shape)

    return run


def layer_norm(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> tuple[Array, Array, Array]:
    """LayerNormalization, with the mean and the inverse of the deviation."""
    x, scale, bias = (*arguments, None)[:3]
    assert x is not None
    assert scale is not None
    axes = tuple(range(int(attributes.get("axis", -1)) % x.ndim, x.ndim))
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt((centred**2).mean(axes, keepdims=True) + attributes.get("epsilon", _EPSILON))
    y = centred * inverse * scale
    return np.asarray(y if bias is None else y + bias), np.asarray(mean), np.asarray(inverse)


def rms_norm(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """RMSNormalization: x / √(mean x² + ε) · scale."""
    x, scale = arguments
    assert x is not None
    assert scale is not None
    axes = tuple(range(int(attributes.get("axis", -1)) % x.ndim, x.ndim))
    return np.asarray(x / np.sqrt((x**2).mean(axes, keepdims=True) + attributes.get("epsilon", _EPSILON)) * scale)


def batch_norm(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """BatchNormalization with the given statistics; without ``spatial`` each place has its own."""
    x, *rest = arguments
    assert x is not None
    epsilon = attributes.get("epsilon", _EPSILON)
    alike = x.ndim > 1 and all(v is not None and v.dtype == x.dtype and v.size == x.shape[1] for v in rest)
    if alike and attributes.get("spatial", 1) and x.dtype.kind == "f" and x.size:
        weight, shift, centre, spread = (tensor_of(value).reshape(-1) for value in rest)
        # In one pass over memory instead of four.
        return array_of(F.batch_norm(tensor_of(x), centre, spread, weight, shift, eps=epsilon))
    shape = _channels(x) if attributes.get("spatial", 1) else (1, *x.shape[1:])
    scale, bias, mean, variance = (np.asarray(value).reshape(shape) for value in rest)
    return np.asarray((x - mean) / np.sqrt(variance + epsilon) * scale + bias)


def batch_norm_trained(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> tuple[Array, ...]:
    """BatchNormalization by the batch's own statistics, with the running ones; before opset 14 also the batch's own."""
    x, scale, bias, mean, variance = arguments
    assert x is not None
    assert mean is not None
    assert variance is not None
    axes = (0, *range(2, x.ndim))
    own, spread = x.mean(axes), x.var(axes)
    y = batch_norm(attributes, [x, scale, bias, own, spread])
    keep = attributes.get("momentum", float(np.float32(0.9)))
    running = [keep * old + (1 - keep) * new for old, new in ((mean, own), (variance, spread))]
    return y, *running, own, spread


def instance_norm(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """InstanceNormalization: each channel of each image by its own statistics."""
    x, scale, bias = arguments
    assert x is not None
    y = _standard(x, tuple(range(2, x.ndim)), attributes.get("epsilon", _EPSILON))
    return np.asarray(y * np.reshape(scale, _channels(x)) + np.reshape(bias, _channels(x)))  # type: ignore[arg-type]


def group_norm(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """GroupNormalization: scale and bias for each channel."""
    x, scale, bias = arguments
    assert x is not None
    rows = x.reshape(x.shape[0], int(attributes["num_groups"]), -1)
    y = _standard(rows, (2,), attributes.get("epsilon", _EPSILON)).reshape(x.shape)
    return np.asarray(y * np.reshape(scale, _channels(x)) + np.reshape(bias, _channels(x)))  # type: ignore[arg-type]


def group_norm_by_group(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """GroupNormalization of opset 18: scale and bias for each group."""
    x, *rest = arguments
    assert x is not None
    each = x.shape[1] // int(attributes["num_groups"])
    return group_norm(attributes, [x, *(np.repeat(np.asarray(value), each) for value in rest)])


def mean_variance(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """MeanVarianceNormalization: the deviation is kept from 0 by 1e-9 beside it."""
    (x,) = arguments
    assert x is not None
    axes = tuple(attributes.get("axes", [0, 2, 3]))
    deviation = np.sqrt(x.var(axes, keepdims=True))
    return np.asarray((x - x.mean(axes, keepdims=True)) / (deviation + 1e-9))


def lp_norm(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """LpNormalization: x / (Σ |x|ᵖ)^(1/p) along an axis; what is all 0 stays so."""
    (x,) = arguments
    assert x is not None
    p = int(attributes.get("p", 2))
    norm = (np.abs(x) ** p).sum(int(attributes.get("axis", -1)), keepdims=True) ** (1 / p)
    return np.asarray(x / np.where(norm == 0, np.asarray(1, x.dtype), norm))


def local_response(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """LRN: x / (bias + α/size · Σ x²)^β over ``size`` channels around each; of an even number the odd one is behind."""
    (x,) = arguments
    assert x is not None
    size = int(attributes["size"])
    alpha, beta = attributes.get("alpha", float(np.float32(1e-4))), attributes.get("beta", 0.75)
    before, after = (size - 1) // 2, size // 2
    padded = np.pad(x**2, [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
    total = sum(padded[:, start : start + x.shape[1]] for start in range(size))
    return np.asarray(x / (attributes.get("bias", 1.0) + alpha / size * total) ** beta)


def _standard(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(axes, keepdims=True) + epsilon))


def _channels(x: Array) -> tuple[int, ...]:
    return (-1, *(1,) * (x.ndim - 2))
