"""Factorised attention whose positions are convolutions of the values (CoaT), cheap in the number of places.

x = x + E ∗ x                                          position: depth-wise 3 × 3 on the map
y = W (q (softmax_n(k)ᵀ v) / sqrt(d) + q (C ∗ v))      b heads n d; C depth-wise 3 × 3, 5 × 5 and 7 × 7 by heads

The class token before the map belongs to no place: it passes E as it is, and gets no C ∗ v.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import merge_heads, split_heads

#: Kernels of the relative positions, and how many of 8 heads have each (paper, section 3.1).
KERNELS, SHARES = (3, 5, 7), (2, 3, 3)


def as_places(x: Float[Tensor, "b n c"], side: int) -> Float[Tensor, "b c h w"]:
    """Lay the tokens behind the class token out as a square map."""
    return x[:, 1:].transpose(1, 2).reshape(-1, x.shape[2], side, side)


def behind(token: Float[Tensor, "b 1 c"], places: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """Put the pixels of a map behind a class token."""
    return torch.cat((token, places.flatten(2).transpose(1, 2)), 1)


class MapPosition(nn.Module):
    """Add a depth-wise convolution of the map."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.proj = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Add positions."""
        places = as_places(x, self.side)
        return behind(x[:, :1], self.proj(places) + places)


class ValuePosition(nn.Module):
    """Convolve values by heads, with kernels of several sizes."""

    def __init__(self, channels: int, heads: int, side: int, shares: Sequence[int] = SHARES) -> None:
        super().__init__()
        self.side, self.widths = side, [share * (channels // heads) for share in shares]
        self.conv_list = nn.ModuleList(
            nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
            for kernel, width in zip(KERNELS, self.widths, strict=True)
        )

    def forward(self, v: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Convolve; the class token's place is zero."""
        parts = torch.split(as_places(v, self.side), self.widths, 1)
        places = torch.cat([conv(part) for conv, part in zip(self.conv_list, parts, strict=True)], 1)
        return F.pad(places.flatten(2).transpose(1, 2), (0, 0, 1, 0))


class FactorisedAttention(nn.Module):
    """Attention in time linear in the tokens.

    Args:
        channels: of the tokens.
        heads: number of heads.
        position: convolves the values; several attentions may share one.
        bias: of queries, keys and values.
    """

    def __init__(self, channels: int, heads: int, position: ValuePosition, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.proj = nn.Linear(channels, channels)
        self.crpe = position

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend."""
        whole = self.qkv(x).chunk(3, -1)
        q, k, v = (split_heads(part, self.heads) for part in whole)
        seen = merge_heads((q * q.shape[-1] ** -0.5) @ (torch.softmax(k, 2).transpose(2, 3) @ v))
        y: Tensor = self.proj(seen + whole[0] * self.crpe(whole[2]))
        return y
