"""A block of TNT: a transformer on the pixels of each patch, whose tokens another transformer mixes.

u = u + A(LN u);  u = u + MLP(LN u)                b·n k d, k pixels of each of n patches
x = x + [0; LN(W LN [u of all pixels])]            b 1+n c
x = x + A(LN x);  x = x + MLP(LN x)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.prenorm import PreNormBlock


class Joined(nn.Module):
    """Make one token of all pixels of a patch."""

    def __init__(self, pixels: int, inner: int, channels: int, *, bias: bool, legacy: bool = False) -> None:
        super().__init__()
        self.legacy = legacy
        self.norm1 = nn.LayerNorm(inner if legacy else pixels * inner)
        self.proj = nn.Linear(pixels * inner, channels, bias=bias or legacy)
        self.norm2 = nn.Identity() if legacy else nn.LayerNorm(channels)

    def forward(self, u: Float[Tensor, "bn k d"], patches: int) -> Float[Tensor, "b n c"]:
        """Join."""
        flat = (-1, patches, u.shape[1] * u.shape[2])
        whole = self.norm1(u).reshape(flat) if self.legacy else self.norm1(u.reshape(flat))
        y: Tensor = self.norm2(self.proj(whole))
        return y


class NestedBlock(nn.Module):
    """Mix the pixels of each patch, add them to its token, mix the tokens."""

    def __init__(self, inner: PreNormBlock, joined: Joined, outer: PreNormBlock) -> None:
        super().__init__()
        self.inner, self.joined, self.outer = inner, joined, outer

    def forward(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mix: pixels ``bn k d`` and tokens ``b n c``."""
        u = self.inner(u)
        told = x[:, 1:] + self.joined(u, x.shape[1] - 1)
        return u, self.outer(torch.cat((x[:, :1], told), 1))
