"""An inverted bottleneck with its norm in front, and a gate of the channels.

y = P pool(x) + conv1(SE(gelu BN dw3(gelu BN conv1(BN x))))      pool and P only where it halves the map
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MBConv(nn.Module):
    """An inverted bottleneck with the norm in front; ``down`` halves the map and may change the channels."""

    def __init__(self, inputs: int, outputs: int, down: bool, expansion: int) -> None:
        super().__init__()
        wide = expansion * outputs
        self.down = down
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if down else nn.Identity()
        self.norm = nn.BatchNorm2d(inputs)
        self.expand = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, 2 if down else 1, bias=False), nn.BatchNorm2d(wide), nn.GELU()
        )
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.GELU()
        )
        self.squeeze = nn.Conv2d(wide, max(1, outputs // 4), 1)
        self.excite = nn.Conv2d(max(1, outputs // 4), wide, 1)
        self.project = nn.Conv2d(wide, outputs, 1)

    def forward(self, x: Float[Tensor, "b ci h w"]) -> Float[Tensor, "b co i j"]:
        """Convolve and add."""
        y = self.depth(self.expand(self.norm(x)))
        y = y * torch.sigmoid(self.excite(F.gelu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        short = self.shortcut(F.max_pool2d(x, 2) if self.down else x)
        total: Tensor = short + self.project(y)
        return total
