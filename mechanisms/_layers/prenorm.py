"""The transformer block: attention and an MLP, each on normalised channels and added to what it was given.

x = x + a * A(LN x)                     a, m learnt by channel where the block has scales, else 1
x = x + m * W2 gelu(W1 LN x)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PreNormBlock(nn.Module):
    """Any attention that keeps the shape of its input, and an MLP of ``round(channels * mlp_ratio)``.

    Args:
        channels: of the tokens.
        attention: what mixes the places.
        mlp_ratio: width of the MLP over ``channels``.
        epsilon: of the norms.
        scale: what the learnt scales of both branches start at (CaiT's LayerScale); none unless given.
    """

    def __init__(
        self,
        channels: int,
        attention: nn.Module,
        mlp_ratio: float = 4.0,
        epsilon: float = 1e-5,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(channels, epsilon), nn.LayerNorm(channels, epsilon)
        self.attention = attention
        self.mlp: nn.Module = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.gamma_1, self.gamma_2 = (
            None if scale is None else nn.Parameter(torch.full((channels,), scale)) for _ in range(2)
        )

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Mix places, then channels."""
        x = x + scaled(self.gamma_1, self.attention(self.norm1(x)))
        y: Tensor = x + scaled(self.gamma_2, self.mlp(self.norm2(x)))
        return y


def scaled(gamma: Tensor | None, x: Tensor) -> Tensor:
    """Multiply each channel by a learnt scale, where there is one."""
    return x if gamma is None else gamma * x
