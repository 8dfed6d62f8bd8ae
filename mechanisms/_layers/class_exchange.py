"""Two branches of tokens whose class tokens read each other's patches (CrossViT).

c = W gelu(LN class_i)                                   as wide as the other branch
c = c + W' softmax(q(LN c) k(LN z)ᵀ / sqrt(d)) v(LN z)   z = [c; the other branch's patches]
class_i = W" gelu(LN c)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_export.mechanisms._layers.class_attention import ClassAttention
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.token_attention import TokenAttention


class CrossBlock(nn.Module):
    """Both branches by themselves, then each class token among the patches of the other branch."""

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], heads: Sequence[int], mlp_ratios: Sequence[float]
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(PreNormBlock(c, TokenAttention(c, h), ratio, epsilon=1e-6) for _ in range(depth)))
            for c, h, ratio, depth in zip(widths, heads, mlp_ratios, depths, strict=True)
        )
        swapped = list(zip(widths, widths[::-1], strict=True))
        self.projs = nn.ModuleList(_project(here, there) for here, there in swapped)
        self.norms = nn.ModuleList(nn.LayerNorm(there, 1e-6) for _, there in swapped)
        self.fusion = nn.ModuleList(
            ClassAttention(there, count) for (_, there), count in zip(swapped, heads[::-1], strict=True)
        )
        self.revert_projs = nn.ModuleList(_project(there, here) for here, there in swapped)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """Mix, exchange: ``b n c`` for each branch."""
        xs = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        fused = []
        for i, x in enumerate(xs):
            token, others = self.projs[i](x[:, :1]), xs[1 - i][:, 1:]
            token = token + self.fusion[i](self.norms[i](torch.cat((token, others), 1)))
            fused.append(torch.cat((self.revert_projs[i](token), x[:, 1:]), 1))
        return fused


def _project(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(inputs, 1e-6), nn.GELU(), nn.Linear(inputs, outputs))
