"""Spatial group-wise enhance: in each group of channels, gate the pixels that resemble the group's mean.

t = Σ_c x * mean(x)                      b g h w, over the channels of a group
g = sigmoid(w (t - mean(t)) / (std(t) + ε) + β)
y = x * g                                b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class SpatialGroupEnhance(nn.Module):
    """One gate for the pixels of each group, with a weight and a bias a group.

    Args:
        channels: of the map; they are only checked against ``groups``.
        groups: of channels.
        eps: added to the standard deviation.

    Raises:
        ValueError: ``groups`` does not divide ``channels``.
    """

    def __init__(self, channels: int = 32, groups: int = 4, eps: float = 1e-5) -> None:
        positive(channels=channels)
        super().__init__()
        if groups < 1 or channels % groups:
            raise ValueError(f"groups must divide channels; {groups} does not divide {channels}")
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.zeros(1, groups, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale the pixels of ``x``; there must be two of them or more."""
        parts = x.reshape(-1, self.groups, x.shape[1] // self.groups, x.shape[2] * x.shape[3])
        gate = self.gate((parts.mean(3).unsqueeze(2) @ parts).squeeze(2))
        return (parts * gate.unsqueeze(2)).reshape_as(x)

    def gate(self, t: Float[Tensor, "b g n"]) -> Float[Tensor, "b g n"]:
        """Return the gate of resemblances ``t``."""
        t = t - t.mean(2, keepdim=True)
        # Squares of values up to one: in float16 those of the resemblances themselves would overflow.
        largest = t.abs().amax(2, keepdim=True) + self.eps
        t = t / largest
        deviation = torch.sqrt((t * t).sum(2, keepdim=True) / (t.shape[2] - 1))
        return torch.sigmoid(t / (deviation + self.eps / largest) * self.weight + self.bias)


MECHANISM = Spec(
    paper=Paper(
        "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
        "Li et al.",
        "2019",
        "1905.09646",
    ),
    build=SpatialGroupEnhance,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=2), Dim("w", min=2)),
    presets={
        "test": Preset({"channels": 32, "groups": 4}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512, "groups": 8}, {"h": 7, "w": 7}),
    },
)
