"""Attention of every token to every other, with one projection to queries, keys and values (vision transformers)."""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads


class TokenAttention(nn.Module):
    """y = W softmax(q kᵀ / sqrt(d)) v.

    Args:
        channels: of the tokens.
        heads: pieces that the channels are cut into.
        bias: of the projection to queries, keys and values.

    Raises:
        ValueError: ``heads`` does not divide ``channels``.
    """

    def __init__(self, channels: int, heads: int, bias: bool = True) -> None:
        positive(channels=channels, heads=heads)
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        y: Tensor = self.proj(merge_heads(attend(q, k, v)))
        return y
