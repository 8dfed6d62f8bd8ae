"""The transformer block: attention and an MLP, each on normalised channels and added to what it was given.

x = x + A(LN x)
x = x + W2 gelu(W1 LN x)
"""

from jaxtyping import Float
from torch import Tensor, nn


class PreNormBlock(nn.Module):
    """Any attention that keeps the shape of its input, and an MLP of ``round(channels * mlp_ratio)``.

    Args:
        channels: of the tokens.
        attention: what mixes the places.
        mlp_ratio: width of the MLP over ``channels``.
        epsilon: of the norms.
    """

    def __init__(self, channels: int, attention: nn.Module, mlp_ratio: float = 4.0, epsilon: float = 1e-5) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(channels, epsilon), nn.LayerNorm(channels, epsilon)
        self.attention = attention
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Mix places, then channels."""
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y
