"""A convolution whose kernel is a mixture of several, with weights that each image chooses.

    y = Σ_k π_k(x) · (W_k ∗ x + b_k)        b o h w

Mixing the outputs instead of the kernels is the same sum, and keeps the graph free of per-image kernels, so that the
batch stays a dimension like any other.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MixtureConv(nn.Module):
    """``experts`` convolutions as one, and the sum of their outputs by given weights.

    Raises:
        ValueError: ``groups`` does not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        experts: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide the channels; {groups} does not divide {channels}, {out_channels}")
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding = dilation * (kernel - 1) // 2 if padding is None else padding
        self.weight = nn.Parameter(torch.empty(experts, out_channels, channels // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(experts, out_channels)) if bias else None
        for expert in self.weight:
            nn.init.kaiming_uniform_(expert, a=5**0.5)

    def forward(self, x: Float[Tensor, "b c h w"], mix: Float[Tensor, "b k 1 1"]) -> Float[Tensor, "b o i j"]:
        """Convolve with every expert, then sum by ``mix``."""
        experts, out = self.weight.shape[:2]
        # Groups outermost, as a grouped convolution orders its outputs.
        weight = torch.unflatten(self.weight, 1, (self.groups, -1)).transpose(0, 1).flatten(0, 2)
        bias = None if self.bias is None else torch.unflatten(self.bias, 1, (self.groups, -1)).transpose(0, 1).flatten()
        y = torch.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        y = torch.unflatten(y, 1, (self.groups, experts, out // self.groups))
        return (y * mix[:, None, :, :, :, None]).sum(2).flatten(1, 2)
