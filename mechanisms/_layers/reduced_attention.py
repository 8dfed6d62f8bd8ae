"""Attention to a map made smaller: queries are its pixels, keys and values those of a strided convolution (PVT)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads


class ReducedAttention(nn.Module):
    """y = W softmax(q(x) k(x')ᵀ / sqrt(d)) v(x') with x' = LN(R ∗ x), R: ratio × ratio at that stride.

    Tokens before the map's, such as a class token, belong to no place: they join the map as one more row would, so that
    they are only taken where ``ratio`` is 1.

    Args:
        channels: of the tokens.
        heads: pieces that the channels are cut into.
        size: rows and columns of the map.
        ratio: of the reduction; 1 for none.
        epsilon: of the norm.

    Raises:
        ValueError: ``heads`` does not divide ``channels``, or ``ratio`` does not divide ``size``.
    """

    def __init__(self, channels: int, heads: int, size: tuple[int, int], ratio: int = 1, epsilon: float = 1e-5) -> None:
        positive(channels=channels, heads=heads, ratio=ratio)
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        if size[0] % ratio or size[1] % ratio:
            raise ValueError(f"ratio must divide size; {ratio} does not divide {size}")
        self.heads, self.size, self.ratio = heads, size, ratio
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.sr = nn.Conv2d(channels, channels, ratio, ratio) if ratio > 1 else None
        self.norm = nn.LayerNorm(channels, epsilon) if ratio > 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend."""
        seen = x
        if self.sr is not None:
            places = x.transpose(1, 2).reshape(-1, x.shape[2], *self.size)
            seen = self.norm(self.sr(places).flatten(2).transpose(1, 2))
        k, v = (split_heads(part, self.heads) for part in torch.chunk(self.kv(seen), 2, -1))
        y: Tensor = self.proj(merge_heads(attend(split_heads(self.q(x), self.heads), k, v)))
        return y
