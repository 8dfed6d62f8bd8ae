"""A transformer among patches: the pixels of one position in every patch see each other.

x = x + W A(LN x)                b p n d, attention over n
x = x + W2 silu(W1 LN x)
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads


class Layer(nn.Module):
    """One pre-norm transformer layer: attention, then an MLP with SiLU."""

    def __init__(self, channels: int, heads: int, d_head: int, hidden: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * heads * d_head, bias=qkv_bias)
        self.out = nn.Linear(heads * d_head, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, channels))

    def forward(self, x: Float[Tensor, "m n d"]) -> Float[Tensor, "m n d"]:
        """Mix tokens, then channels."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(merge_heads(attend(q, k, v)))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class Transformer(nn.Module):
    """Layers on the patches of each position, which do not see those of another."""

    def __init__(self, channels: int, depth: int, heads: int, d_head: int, hidden: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Layer(channels, heads, d_head, hidden, qkv_bias) for _ in range(depth)))

    def forward(self, x: Float[Tensor, "b p n d"]) -> Float[Tensor, "b p n d"]:
        """Run the layers."""
        y: Tensor = self.layers(x.flatten(0, 1))
        return y.reshape(x.shape)
