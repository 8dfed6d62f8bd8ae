"""Attention with batch norms in place of layer norms, small keys, and a bias by distance (LeViT).

q k v = BN(W x)                                        b h n d
y = BN(W hardswish(softmax(q kᵀ / sqrt(d) + bias) v))  with a stride, q are of every other pixel
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms._layers.linear_bn import LinearBN
from attn_export.mechanisms._layers.offset_bias import OffsetBias


class LeViTAttention(nn.Module):
    """Attention of the pixels of a square map; with a stride, of some of them to all.

    Args:
        channels: of the tokens.
        outputs: channels that are given.
        key: channels of a head's queries and keys.
        heads: number of heads.
        ratio: channels of a head's values over ``key``.
        side: of the map.
        stride: queries are every so many rows and columns.
    """

    def __init__(
        self,
        channels: int = 16,
        outputs: int = 16,
        key: int = 8,
        heads: int = 2,
        ratio: int = 2,
        side: int = 4,
        stride: int = 1,
    ) -> None:
        positive(channels=channels, outputs=outputs, key=key, heads=heads, ratio=ratio, side=side, stride=stride)
        super().__init__()
        self.heads, self.side, self.stride = heads, side, stride
        self.parts = [key, ratio * key] if stride > 1 else [key, key, ratio * key]
        wide = heads * sum(self.parts)
        if stride > 1:
            self.kv, self.q = LinearBN(channels, wide), LinearBN(channels, heads * key)
        else:
            self.qkv = LinearBN(channels, wide)
        self.bias = OffsetBias(heads, side, stride)
        self.proj = nn.Sequential(nn.Hardswish(), LinearBN(heads * ratio * key, outputs))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b m o"]:
        """Attend."""
        wide = self.kv(x) if self.stride > 1 else self.qkv(x)
        parts: tuple[Tensor, ...] = torch.split(split_heads(wide, self.heads), self.parts, -1)
        if self.stride > 1:
            step = self.stride
            places = x.reshape(-1, self.side, self.side, x.shape[2])[:, ::step, ::step].flatten(1, 2)
            parts = (split_heads(self.q(places), self.heads), *parts)
        q, k, v = parts
        y: Tensor = self.proj(merge_heads(attend(q, k, v, bias=self.bias())))
        return y
