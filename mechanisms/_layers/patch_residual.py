"""A block of ConTNet: transformers within patches of a map, then a convolution beside a shortcut.

u = relu(BN x);  v = T2(T1(u))                     b c h w; T: x = x + A(LN x);  x = x + MLP(LN x)
y = C ∗ v + x, or C ∗ v + D(u) where the channels change
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.windows import WindowAttention


class ConTBlock(nn.Module):
    """Two transformers on patches, then a convolution; ``outputs`` differs from ``channels`` in a stage's last block.

    Args:
        channels: of the map that comes in.
        outputs: channels of the map that goes out.
        patches: sides of the two transformers' patches.
        hidden: width of the MLPs.
        heads: of the attention.
        stride: of the convolution.
        average: shrink the shortcut by a mean of four pixels before its 1 × 1, or take every second pixel.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        patches: Sequence[int],
        hidden: int,
        heads: int,
        stride: int = 1,
        average: bool = True,
    ) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.transformers = nn.Sequential(
            *(PreNormBlock(channels, WindowAttention(channels, heads, patch), hidden / channels) for patch in patches)
        )
        last = outputs != channels
        kernel = 1 if last and stride == 1 else 3
        self.out_conv = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, bias=False)
        self.average = average and stride > 1
        skip = 1 if average else stride
        self.shortcut = nn.Conv2d(channels, outputs, 1, skip, bias=False) if last else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Mix patches, then neighbours."""
        active = torch.relu(self.bn(x))
        mixed = self.transformers(active.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.shortcut is not None:
            x = self.shortcut(F.avg_pool2d(active, 2, 2) if self.average else active)
        y: Tensor = self.out_conv(mixed) + x
        return y
