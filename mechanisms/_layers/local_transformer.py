"""The block of CMT: local perception, attention to a smaller map, and an MLP with a depth-wise convolution inside.

x = x + D ∗ x                                              D: depth-wise 3 × 3
x = x + W softmax(q(LN x) k(s)ᵀ / sqrt(d) + bias) v(s)     s = BN(S ∗ LN x), S depth-wise, ratio × ratio at that stride
x = x + BN(C2 ∗ BN(gelu(u + D' ∗ u)))                      u = BN(gelu(C1 ∗ LN x))
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.channel_norm import ChannelNorm
from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads


class LightAttention(nn.Module):
    """Attention of the pixels of a map to those of a smaller one, with a bias that the caller holds."""

    def __init__(self, channels: int, heads: int, ratio: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(channels, channels) for _ in range(4))
        self.sr = nn.Sequential()
        if ratio > 1:
            self.sr.append(nn.Conv2d(channels, channels, ratio, ratio, groups=channels))
            self.sr.append(nn.BatchNorm2d(channels))

    def forward(self, x: Float[Tensor, "b c h w"], bias: Float[Tensor, "g n m"]) -> Float[Tensor, "b c h w"]:
        """Attend."""
        seen = self.sr(x).flatten(2).transpose(1, 2)
        places = x.flatten(2).transpose(1, 2)
        q, k, v = (split_heads(part, self.heads) for part in (self.q(places), self.k(seen), self.v(seen)))
        y: Tensor = self.proj(merge_heads(attend(q, k, v, bias=bias)))
        return y.transpose(1, 2).reshape(x.shape)


class ResidualMLP(nn.Module):
    """Widen, filter each channel beside a shortcut, narrow: a batch norm behind each."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.BatchNorm2d(hidden))
        self.proj = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.proj_bn = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Sequential(nn.Conv2d(hidden, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix neighbours and channels."""
        u = self.conv1(x)
        y: Tensor = self.conv2(self.proj_bn(F.gelu(u + self.proj(u))))
        return y


class LocalTransformerBlock(nn.Module):
    """One block.

    Args:
        channels: of the map.
        heads: pieces that the channels are cut into.
        ratio: how many times smaller the map of keys and values is on a side.
        mlp_ratio: width of the MLP over ``channels``.

    Raises:
        ValueError: ``heads`` does not divide ``channels``.
    """

    def __init__(self, channels: int, heads: int, ratio: int, mlp_ratio: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.attn = LightAttention(channels, heads, ratio)
        self.mlp = ResidualMLP(channels, round(channels * mlp_ratio))

    def forward(self, x: Float[Tensor, "b c h w"], bias: Float[Tensor, "g n m"]) -> Float[Tensor, "b c h w"]:
        """Mix."""
        x = x + self.proj(x)
        x = x + self.attn(self.norm1(x), bias)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y
