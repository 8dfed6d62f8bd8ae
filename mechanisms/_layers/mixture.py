"""A convolution whose kernel is a mixture of several, with weights that each image chooses.

    y = Σ_k π_k(x) · (W_k ∗ x + b_k)        b o h w

The kernels are mixed, and each image is convolved with its own; mixing the outputs of all convolutions instead would
cost as many times as there are kernels.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.per_sample_conv import convolve_each


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
        """Mix the kernels by ``mix``, and give each image its own."""
        share = mix.flatten(1)
        kernels = (share @ self.weight.flatten(1)).reshape(-1, *self.weight.shape[1:])
        y = convolve_each(
            x, kernels, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )
        return y if self.bias is None else y + (share @ self.bias)[:, :, None, None]
