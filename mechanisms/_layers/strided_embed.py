"""Patch embedding: a convolution whose stride is its kernel, and a norm.

x = LN(conv_s(x))      b h/s w/s d
"""

from jaxtyping import Float
from torch import Tensor, nn


class Embed(nn.Module):
    """A strided convolution and a norm; channels first in, last out."""

    def __init__(self, inputs: int, outputs: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, stride, stride, bias=bias)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows columns d"]:
        """Embed."""
        y: Tensor = self.norm(self.convolution(x).permute(0, 2, 3, 1))
        return y
