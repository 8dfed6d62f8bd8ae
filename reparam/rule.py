"""The contract of a fusion rule, and the two ends of the algebra: from PyTorch modules and back."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from attn_export.errors import FusionError
from attn_export.reparam.algebra import Array, Convolution, affine, batch_norm


class Rule(Protocol):
    """A pattern and how to collapse it. A protocol, so that a plug-in need not import us."""

    def matches(self, module: nn.Module) -> bool:
        """Whether the rule knows this module."""

    def collapse(self, module: nn.Module) -> nn.Module:
        """Return an equal module with fewer operators; the one given is not changed.

        Raises:
            FusionError: it is the pattern, but a condition fails; the message says which.
        """


def array(tensor: Tensor) -> Array:
    """Copy a tensor to float64."""
    return tensor.detach().double().numpy().copy()


def lift(convolution: nn.Conv2d) -> Convolution:
    """Read a PyTorch convolution as a value.

    Raises:
        FusionError: its padding is neither zeros nor given by numbers.
    """
    if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
        raise FusionError(f"padding {convolution.padding_mode!r}/{convolution.padding!r}: wanted zeros, by numbers")
    rows, columns = convolution.padding
    weight = array(convolution.weight)
    bias = np.zeros(len(weight)) if convolution.bias is None else array(convolution.bias)
    return Convolution(
        weight,
        bias,
        (convolution.stride[0], convolution.stride[1]),
        ((rows, rows), (columns, columns)),
        (convolution.dilation[0], convolution.dilation[1]),
        convolution.groups,
    )


def follow(convolution: Convolution, norm: nn.BatchNorm2d) -> Convolution:
    """Follow a convolution by a batch norm in inference.

    Raises:
        FusionError: the batch norm is in training mode or keeps no running statistics.
    """
    if norm.training or norm.running_mean is None or norm.running_var is None:
        raise FusionError(
            "a batch norm in training mode depends on the batch; call .eval() and track running statistics"
        )
    gamma = np.ones(norm.num_features) if norm.weight is None else array(norm.weight)
    beta = np.zeros(norm.num_features) if norm.bias is None else array(norm.bias)
    scale, shift = batch_norm(gamma, beta, array(norm.running_mean), array(norm.running_var), norm.eps)
    return affine(convolution, scale, shift)


def emit(convolution: Convolution, like: Tensor) -> nn.Conv2d:
    """Write a convolution as a PyTorch module in the element type and on the device of ``like``.

    Raises:
        FusionError: the padding is not the same on both sides.
    """
    (top, bottom), (left, right) = convolution.padding
    if top != bottom or left != right:
        raise FusionError(f"padding {convolution.padding} is not the same on both sides")
    out, width, height, breadth = convolution.weight.shape
    module = nn.Conv2d(
        width * convolution.groups,
        out,
        (height, breadth),
        stride=convolution.stride,
        padding=(top, left),
        dilation=convolution.dilation,
        groups=convolution.groups,
        device=like.device,
        dtype=like.dtype,
    )
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(convolution.weight))
        assert module.bias is not None
        module.bias.copy_(torch.from_numpy(convolution.bias))
    return module.eval()
