"""Folding by hand: what a branch of a block is as one convolution of a given side, written without the fuser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_export.export.weights.randomize import randomize


@dataclass(frozen=True)
class Kernel:
    """A convolution of odd side with zeros around the map."""

    weight: Tensor
    bias: Tensor
    groups: int = 1

    def __call__(self, x: Tensor, stride: int = 1) -> Tensor:
        """Convolve with as many zeros as keep the size at stride 1."""
        reach = self.weight.shape[-1] // 2
        return F.conv2d(x, self.weight, self.bias, stride, reach, groups=self.groups)

    def __add__(self, other: Kernel) -> Kernel:
        assert self.weight.shape == other.weight.shape
        assert self.groups == other.groups
        return Kernel(self.weight + other.weight, self.bias + other.bias, self.groups)

    def scaled(self, factor: Tensor) -> Kernel:
        """Multiply each output by a number."""
        return Kernel(self.weight * factor.reshape(-1, 1, 1, 1), self.bias * factor.flatten(), self.groups)


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm, a channel at a time."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def normed(kernel: Kernel, norm: Any) -> Kernel:
    """The kernel with a batch norm behind it."""
    scale, shift = affine(norm)
    moved = kernel.scaled(scale)
    return Kernel(moved.weight, moved.bias + shift, kernel.groups)


def spread(weight: Tensor, side: int, dilation: int = 1) -> Tensor:
    """Lay a kernel into the middle of a larger one, with zeros between its taps."""
    out = weight.new_zeros(*weight.shape[:2], side, side)
    rows, columns = weight.shape[2:]
    top, left = (side - (rows - 1) * dilation - 1) // 2, (side - (columns - 1) * dilation - 1) // 2
    for i in range(rows):
        for j in range(columns):
            out[:, :, top + i * dilation, left + j * dilation] = weight[:, :, i, j]
    return out


def plain(conv: nn.Conv2d, side: int) -> Kernel:
    """A convolution as one of side ``side``."""
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    return Kernel(spread(conv.weight, side, conv.dilation[0]), bias, conv.groups)


def folded(unit: Any, side: int) -> Kernel:
    """A ConvBN as a kernel of side ``side``."""
    return normed(plain(unit.conv, side), unit.bn)


def identity(channels: int, side: int, groups: int = 1) -> Kernel:
    """The kernel that changes nothing."""
    weight = torch.zeros(channels, channels // groups, side, side, dtype=torch.float64)
    for channel in range(channels):
        weight[channel, channel % (channels // groups), side // 2, side // 2] = 1
    return Kernel(weight, torch.zeros(channels, dtype=torch.float64), groups)


def ready(module: nn.Module) -> Any:
    """Awake, in float64, for evaluation."""
    randomize(module)
    return module.double().eval()


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def agree(ours: Tensor, expected: Tensor) -> bool:
    return ours.shape == expected.shape and bool((ours - expected).abs().max() <= 1e-12 * expected.abs().max())
