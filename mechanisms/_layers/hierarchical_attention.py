"""Attention within the squares of a grid, then of all pixels to a smaller map (HAT-Net).

N is a norm of all channels and pixels together (group norm of one group)
g = N(x + A(N x))                            b c h w; A within squares of the map
y = W (g + softmax(q(g) k(z)ᵀ / sqrt(d)) v(z))      z = N(mean of r × r pixels of g)
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms._layers.windows import join, partition


def whole_norm(channels: int) -> nn.Module:
    """Make a norm of all channels and pixels together."""
    return nn.GroupNorm(1, channels, 1e-6)


class HierarchicalAttention(nn.Module):
    """Attention within squares, then to the mean of all; ``grid`` is the squares' side, 1 for none."""

    def __init__(self, channels: int, head_channels: int, grid: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.grid, self.reduction = channels // head_channels, grid, reduction
        self.norm = whole_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        if grid > 1:
            self.grid_norm, self.ds_norm = whole_norm(channels), whole_norm(channels)
            self.q, self.kv = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend."""
        qkv = self.qkv(self.norm(x))
        if self.grid == 1:
            seen = self._attend(*(part.flatten(2).transpose(1, 2) for part in qkv.chunk(3, 1)))
            whole: Tensor = self.proj(seen.transpose(1, 2).reshape(x.shape))
            return whole
        squares = partition(qkv.permute(0, 2, 3, 1), self.grid, self.grid)
        seen = self._attend(*squares.flatten(0, 1).chunk(3, -1)).reshape(-1, *squares.shape[1:3], x.shape[1])
        near = join(seen, self.grid, self.grid, x.shape[3] // self.grid).permute(0, 3, 1, 2)
        near = self.grid_norm(x + near)
        small = self.kv(self.ds_norm(F.avg_pool2d(near, self.reduction, self.reduction)))
        parts = (self.q(near), *small.chunk(2, 1))
        far = self._attend(*(part.flatten(2).transpose(1, 2) for part in parts))
        y: Tensor = self.proj(near + far.transpose(1, 2).reshape(x.shape))
        return y

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "b n c"]:
        return merge_heads(attend(*(split_heads(part, self.heads) for part in (q, k, v))))
