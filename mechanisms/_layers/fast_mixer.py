"""Blocks of FastViT: units of branches with GELU, the step that halves a map, a RepMixer with an MLP.

u = gelu(gate(B(x)))                   b o h/s w/s    B: branches as MobileOne's, one convolution deployed
u = gelu(B(BN(L ∗ x) + BN(S ∗ x)))     b o h/2 w/2    L: 7 × 7, S: 3 × 3, depth-wise, o / c filters a channel
x = RepMixer(x);  x = x + γ * W2 gelu(W1 BN(D ∗ x))      b c h w, D: depth-wise 7 × 7
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.rep.mobileone_block import Branches
from attn_export.mechanisms.rep.repmixer import RepMixer


class Unit(Branches):
    """MobileOne's unit with GELU."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Sum the branches and activate."""
        return F.gelu(super().forward(x))


class Halving(nn.Module):
    """A large filter and a small one at stride 2, and a unit that mixes the channels (paper, section 3.2.1)."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.large = ConvBN(channels, outputs, 7, stride=2, groups=channels)
        self.small = ConvBN(channels, outputs, 3, stride=2, groups=channels)
        self.mix = Unit(outputs, outputs, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Halve the map."""
        y: Tensor = self.mix(self.large(x) + self.small(x))
        return y


class RepMixerBlock(nn.Module):
    """A RepMixer, and an MLP that begins with a large filter; it is scaled by channel beside a shortcut."""

    def __init__(self, channels: int, mlp_ratio: float = 3.0) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.mixer = RepMixer(channels)
        self.mlp = nn.Sequential(
            ConvBN(channels, channels, 7, groups=channels),
            nn.Conv2d(channels, hidden, 1),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
        )
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 1e-5))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix places, then channels."""
        x = self.mixer(x)
        y: Tensor = x + self.gamma * self.mlp(x)
        return y
