"""A convolution whose kernel is a mixture of several, with weights that each image chooses.

    y = Σ_k π_k(x) · (W_k ∗ x + b_k)        b o h w

Kernels of its own for each image cannot be a convolution with a batch that varies: they would be groups, a constant of
the graph. Windows times kernels is a product of matrices, with the batch a dimension like any other; mixing the outputs
of all convolutions instead would cost as many times as there are kernels.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._parts.local import shifted


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
        experts, out, width, size, _ = self.weight.shape
        share = mix.flatten(1)
        # Taps before channels: then the windows are whole shifted maps, one behind the other.
        kernels = share @ self.weight.permute(0, 1, 3, 4, 2).reshape(experts, -1)
        parts = x.reshape(-1, width, *x.shape[2:]) if self.groups > 1 else x
        seen = torch.cat(shifted(parts, size, self.padding, self.stride, self.dilation), 1)
        rows, columns = seen.shape[2:]
        inner = width * size**2
        y = kernels.reshape(-1, self.groups, out // self.groups, inner) @ seen.reshape(
            -1, self.groups, inner, rows * columns
        )
        y = y.reshape(-1, out, rows, columns)
        return y if self.bias is None else y + (share @ self.bias)[:, :, None, None]
