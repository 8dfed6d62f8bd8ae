"""Blocks of EfficientFormer: a token mixer and an MLP, each scaled by channel beside a shortcut.

x = x + a * (pool(x) - x);  x = x + c * BN(W2 gelu(BN(W1 x)))      b c h w, W 1 × 1
x = x + a * A(LN x);        x = x + c * W2 gelu(W1 LN x)           b n c
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms._layers.offset_bias import OffsetBias
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms.attention.pooling_mixer import PoolingMixer

#: Heads, channels of a head's keys, and of its values over those (paper, section 4).
_HEADS, _KEY, _RATIO = 8, 32, 4


class BiasedAttention(nn.Module):
    """Attention of the pixels of a square map, with a bias by distance and wide values."""

    def __init__(self, channels: int, side: int = 7) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, _HEADS * _KEY * (2 + _RATIO))
        self.bias = OffsetBias(_HEADS, side)
        self.proj = nn.Linear(_HEADS * _KEY * _RATIO, channels)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend."""
        q, k, v = torch.split(split_heads(self.qkv(x), _HEADS), [_KEY, _KEY, _RATIO * _KEY], -1)
        y: Tensor = self.proj(merge_heads(attend(q, k, v, bias=self.bias())))
        return y


class PoolingBlock(nn.Module):
    """Pooling and an MLP on a map, each scaled by channel beside a shortcut."""

    def __init__(self, channels: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.mixer = PoolingMixer(3)
        self.gamma_1, self.gamma_2 = _scale(channels), _scale(channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix places, then channels."""
        x = x + self.gamma_1[:, None, None] * self.mixer(x)
        y: Tensor = x + self.gamma_2[:, None, None] * self.mlp(x)
        return y


class AttentionBlock(PreNormBlock):
    """Attention and an MLP on the pixels of a map as tokens, each scaled by channel beside a shortcut."""

    def __init__(self, channels: int, mlp_ratio: float = 4.0, side: int = 7) -> None:
        super().__init__(channels, BiasedAttention(channels, side), mlp_ratio, scale=1e-5)


def _scale(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.full((channels,), 1e-5))
