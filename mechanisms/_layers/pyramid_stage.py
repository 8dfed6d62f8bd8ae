"""A stage of a pyramid of transformers: patches of a map become tokens, which attend to a smaller map (PVT)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.reduced_attention import ReducedAttention


class PyramidStage(nn.Module):
    """Cut a map into patches, mix them, and give the tokens: those of the map behind a class token, where it has one.

    Args:
        inputs: channels of the map.
        channels: of the tokens.
        patch: side of the patches.
        side: of the map of tokens.
        depth: number of blocks.
        heads: of the attention.
        reduction: of the keys' and values' map.
        mlp_ratio: width of the MLPs over the channels.
        conditional: whether positions are computed or learnt.
        token: whether there is a class token.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        patch: int,
        side: int,
        depth: int,
        heads: int,
        reduction: int,
        mlp_ratio: float,
        *,
        conditional: bool,
        token: bool,
    ) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(inputs, channels, patch, patch), nn.LayerNorm(channels)
        self.class_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02) if token else None
        self.learnt = None if conditional else nn.Parameter(torch.randn(1, side * side + token, channels) * 0.02)
        self.computed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels) if conditional else None
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            attention = ReducedAttention(channels, heads, (side, side), reduction)
            self.blocks.append(PreNormBlock(channels, attention, mlp_ratio, epsilon=1e-6))
        self.side = side

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Embed and mix."""
        x = self.norm(self.embed(x).flatten(2).transpose(1, 2))
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), 1)
        x = x if self.learnt is None else x + self.learnt
        for index, block in enumerate(self.blocks):
            x = block(x)
            if self.computed is not None and not index:
                x = x + self.computed(as_map(x, self.side)).flatten(2).transpose(1, 2)
        return x


def as_map(x: Float[Tensor, "b n c"], side: int) -> Float[Tensor, "b c h w"]:
    """Lay tokens out as a square map."""
    return x.transpose(1, 2).reshape(-1, x.shape[2], side, side)
