"""The two kinds of blocks of CoaT: along one scale, and across scales whose attention is exchanged.

x = x + E ∗ x;  x = x + A(LN x);  x = x + MLP(LN x)                     see ``conv_attention``
x_i = x_i + a_i + Σ_j resize(a_j);  x_i = x_i + MLP(LN x_i)             a_i = A_i(LN x_i); one MLP for all scales
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.conv_attention import (
    FactorisedAttention,
    MapPosition,
    ValuePosition,
    as_places,
    behind,
)
from attn_export.mechanisms._layers.prenorm import PreNormBlock


class Scale(nn.Module):
    """One scale of the pyramid: cut a map to patches, put a class token before them, mix them."""

    def __init__(self, inputs: int, channels: int, patch: int, side: int, depth: int, heads: int, mlp: float) -> None:
        super().__init__()
        self.side = side
        self.embed, self.embed_norm = nn.Conv2d(inputs, channels, patch, patch), nn.LayerNorm(channels)
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        # All blocks of a scale share their positions.
        self.cpe, self.crpe = MapPosition(channels, side), ValuePosition(channels, heads, side)
        self.blocks = nn.ModuleList(
            PreNormBlock(channels, FactorisedAttention(channels, heads, self.crpe), mlp, epsilon=1e-6)
            for _ in range(depth)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Embed and mix."""
        x = self.embed_norm(self.embed(x).flatten(2).transpose(1, 2))
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1)
        for block in self.blocks:
            x = block(self.cpe(x))
        return x


class ParallelBlock(nn.Module):
    """Attention at several scales, whose results are resized and exchanged."""

    def __init__(self, scales: Sequence[Scale], channels: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.sides = [scale.side for scale in scales]
        self.attentions = nn.ModuleList(FactorisedAttention(channels, heads, scale.crpe) for scale in scales)
        self.norms1, self.norms2 = (nn.ModuleList(nn.LayerNorm(channels, 1e-6) for _ in scales) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """Attend, exchange, mix channels: ``b n c`` for each scale, positions added."""
        seen = [a(norm(x)) for a, norm, x in zip(self.attentions, self.norms1, xs, strict=True)]
        mixed = []
        for here, (x, norm) in enumerate(zip(xs, self.norms2, strict=True)):
            told = x + seen[here]
            for there, other in enumerate(seen):
                if there != here:
                    told = told + resized(other, self.sides[there], self.sides[here])
            mixed.append(told + self.mlp(norm(told)))
        return mixed


def resized(x: Float[Tensor, "b n c"], side: int, wanted: int) -> Float[Tensor, "b m c"]:
    """Resize the map behind a class token, linearly between pixels and without a mean over what is left out."""
    factor = wanted / side
    return behind(x[:, :1], F.interpolate(as_places(x, side), scale_factor=factor, mode="bilinear"))
