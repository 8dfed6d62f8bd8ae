"""Convolutions as values: kernel and bias with the operations under which they are closed.

    y[o, q] = bias[o] + Σ_{c, t} weight[o, c, t] · x̃[c, stride · q + dilation · t − padding]

x̃ is x with zeros around it. Everything is float64 and pure; rounding to float32 happens once, on emission. Sources:
RepVGG (2101.03697, §3.3), Diverse Branch Block (2103.13425, §3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attn_export.errors import FusionError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Convolution:
    """A 2-D convolution as a value.

    Attributes:
        weight: (out, in / groups, height, width).
        bias: (out,).
        stride: rows, columns.
        padding: zeros before and after, for rows and for columns.
        dilation: rows, columns.
        groups: groups of channels.
    """

    weight: Array
    bias: Array
    stride: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def identity(channels: int, groups: int = 1) -> Convolution:
    """The convolution that returns its input: a 1×1 kernel of ones on the diagonal of each group."""
    width = channels // groups
    weight = np.zeros((channels, width, 1, 1))
    weight[np.arange(channels), np.arange(channels) % width] = 1.0
    return Convolution(weight, np.zeros(channels), groups=groups)


def batch_norm(gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float) -> tuple[Array, Array]:
    """Batch norm in inference as scale and shift per channel: γ/√(σ²+ε), β − μ·scale."""
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def affine(convolution: Convolution, scale: Array, shift: Array) -> Convolution:
    """Follow a convolution by a scale and a shift of each output channel; exact for every padding and stride."""
    return replace(
        convolution, weight=convolution.weight * scale[:, None, None, None], bias=convolution.bias * scale + shift
    )


def spread(convolution: Convolution) -> Convolution:
    """Write the dilation into the kernel as zeros between its taps."""
    if convolution.dilation == (1, 1):
        return convolution
    (dy, dx), (out, width, height, breadth) = convolution.dilation, convolution.weight.shape
    weight = np.zeros((out, width, (height - 1) * dy + 1, (breadth - 1) * dx + 1))
    weight[:, :, ::dy, ::dx] = convolution.weight
    return replace(convolution, weight=weight, dilation=(1, 1))


def widen(convolution: Convolution, padding: tuple[tuple[int, int], tuple[int, int]]) -> Convolution:
    """Grow the padding to ``padding`` and the kernel by as many zeros; the function stays the same.

    Raises:
        FusionError: ``padding`` is smaller somewhere.
    """
    plain = spread(convolution)
    grow = [(w - h, v - i) for (w, v), (h, i) in zip(padding, plain.padding, strict=True)]
    if any(g < 0 for pair in grow for g in pair):
        raise FusionError(f"cannot shrink padding {plain.padding} to {padding}")
    return replace(plain, weight=np.pad(plain.weight, [(0, 0), (0, 0), *grow]), padding=padding)


def regroup(convolution: Convolution, groups: int) -> Convolution:
    """Write a grouped convolution with fewer groups, zeros where groups do not see each other.

    Raises:
        FusionError: ``groups`` does not divide the number of groups.
    """
    if convolution.groups == groups:
        return convolution
    if convolution.groups % groups:
        raise FusionError(f"{convolution.groups} groups cannot be written as {groups}")
    out, narrow, height, width = convolution.weight.shape
    merged = convolution.groups // groups
    weight = np.zeros((out, merged, narrow, height, width))
    member = np.arange(out) // (out // convolution.groups) % merged
    weight[np.arange(out), member] = convolution.weight
    return replace(convolution, weight=weight.reshape(out, merged * narrow, height, width), groups=groups)


def add(one: Convolution, other: Convolution) -> Convolution:
    """The sum of two convolutions of one input as one convolution.

    Raises:
        FusionError: strides or channels differ, or their outputs differ in size.
    """
    if one.stride != other.stride:
        raise FusionError(f"strides {one.stride} and {other.stride} differ, so the outputs lie on different grids")
    shapes = [(c.weight.shape[0], c.weight.shape[1] * c.groups) for c in (one, other)]
    if shapes[0] != shapes[1]:
        raise FusionError(f"channels (out, in) {shapes[0]} and {shapes[1]} differ")
    groups = int(np.gcd(one.groups, other.groups))
    first, second = (regroup(spread(c), groups) for c in (one, other))
    if _shrinkage(first) != _shrinkage(second):
        raise FusionError(f"the outputs differ in size: they lose {_shrinkage(first)} and {_shrinkage(second)} pixels")
    pairs = zip(first.padding, second.padding, strict=True)
    rows, columns = ((max(a[0], b[0]), max(a[1], b[1])) for a, b in pairs)
    first, second = widen(first, (rows, columns)), widen(second, (rows, columns))
    return replace(first, weight=first.weight + second.weight, bias=first.bias + second.bias)


def _shrinkage(convolution: Convolution) -> tuple[int, ...]:
    """Rows and columns that the output at stride 1 is smaller than the input."""
    return tuple(k - 1 - sum(p) for k, p in zip(convolution.weight.shape[2:], convolution.padding, strict=True))
