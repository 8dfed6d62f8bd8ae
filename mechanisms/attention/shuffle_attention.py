"""Shuffle attention: in each group of channels, half is gated by channel and half by pixel; then all are shuffled.

u, v = the halves of a group             b g c/2g h w
u'   = u * sigmoid(w mean(u) + β)        one w and β a channel of the half, shared by the groups
v'   = v * sigmoid(w' GN(v) + β')        GN: each channel alone
y    = shuffle(concat(u', v'))           b c h w, the two halves of all channels interleaved
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ShuffleAttention(nn.Module):
    """Two light gates for groups of channels.

    Args:
        channels: of the map.
        groups: of channels; all share their weights.

    Raises:
        ValueError: ``2 * groups`` does not divide ``channels``.
    """

    def __init__(self, channels: int = 32, groups: int = 4) -> None:
        positive(channels=channels)
        super().__init__()
        if groups < 1 or channels % (2 * groups):
            raise ValueError(f"twice the groups must divide channels; {groups} groups, {channels} channels")
        half = channels // (2 * groups)
        self.groups = groups
        self.channel_weight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.channel_bias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.spatial_weight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.spatial_bias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.norm = nn.GroupNorm(half, half)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate and shuffle ``x``."""
        channels, size = x.shape[1], x.shape[2:]
        u, v = x.reshape(-1, channels // self.groups, *size).chunk(2, 1)
        u = u * torch.sigmoid(u.mean((2, 3), keepdim=True) * self.channel_weight + self.channel_bias)
        # One scale and shift instead of two after another: both are constants once exported.
        scale, shift = self.spatial_weight.flatten(), self.spatial_bias.flatten()
        weight, bias = self.norm.weight * scale, self.norm.bias * scale + shift
        v = v * torch.sigmoid(F.group_norm(v, self.norm.num_groups, weight, bias, self.norm.eps))
        halves = torch.cat((u, v), 1).reshape(-1, 2, channels // 2, *size)
        return halves.transpose(1, 2).reshape(-1, channels, *size)


MECHANISM = Spec(
    paper=Paper(
        "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks",
        "Zhang and Yang",
        "ICASSP 2021",
        "2102.00240",
    ),
    build=ShuffleAttention,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "groups": 4}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512, "groups": 8}, {"h": 7, "w": 7}),
    },
    checkpoint={
        r"^c(weight|bias)$": r"channel_\1",
        r"^s(weight|bias)$": r"spatial_\1",
        r"^gn\.": "norm.",
    },
)
