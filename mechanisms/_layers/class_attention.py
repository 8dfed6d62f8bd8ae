"""What gathers an image for its class: attention of one token to all, and the block around it (CaiT).

c = c + a * W softmax(q(c) k([c; x])ᵀ / sqrt(d)) v([c; x]);  c = c + m * MLP(LN c)
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms._layers.prenorm import PreNormBlock, scaled


class ClassAttention(nn.Module):
    """Attention of the first token to all; ``bias`` is that of queries, keys and values."""

    def __init__(self, channels: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(channels, channels, bias=bias) for _ in range(3))
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b 1 c"]:
        """Attend."""
        q, k, v = (split_heads(part, self.heads) for part in (self.q(x[:, :1]), self.k(x), self.v(x)))
        y: Tensor = self.proj(merge_heads(attend(q, k, v)))
        return y


class ClassBlock(PreNormBlock):
    """A block of which the first token alone comes out."""

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b 1 c"]:
        """Read the others."""
        first = x[:, :1] + scaled(self.gamma_1, self.attention(self.norm1(x)))
        y: Tensor = first + scaled(self.gamma_2, self.mlp(self.norm2(first)))
        return y
