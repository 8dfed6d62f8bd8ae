"""Efficient multi-scale attention: groups of channels, gated by pooled rows and columns against a 3 × 3 branch.

u = sigmoid(W mean_w(x)),  v = sigmoid(W mean_h(x))     b*g c h 1, b*g c 1 w; g groups of c channels
p = norm(x * u * v),       q = conv3(x)                 b*g c h w; norm over each map of p
s = softmax(mean(p)) · q + softmax(mean(q)) · p         b*g 1 h w
y = x * sigmoid(s)                                      b g*c h w

The mean of a normalised map is the shift of its norm, so softmax(mean(p)) is a constant.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class EfficientMultiScaleAttention(nn.Module):
    """A gate on each pixel of each group of channels; groups share their weights.

    Args:
        channels: of the map.
        groups: of channels.

    Raises:
        ValueError: ``groups`` does not divide ``channels``.
    """

    def __init__(self, channels: int = 32, groups: int = 4) -> None:
        positive(channels=channels)
        super().__init__()
        if groups < 1 or channels % groups:
            raise ValueError(f"groups must divide channels; {groups} does not divide {channels}")
        self.channels, self.width = channels, channels // groups
        self.pointwise = nn.Conv2d(self.width, self.width, 1)
        self.local = nn.Conv2d(self.width, self.width, 3, padding=1)
        self.norm = nn.InstanceNorm2d(self.width, affine=True)  # one group a channel, as one node of the graph

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate the pixels of each group."""
        h, w = x.shape[2:]
        maps = x.reshape(-1, self.width, h, w)
        # Pointwise: rows and columns need not be put into one tensor to share the weights.
        rows = torch.sigmoid(self.pointwise(maps.mean(3, keepdim=True)))
        columns = torch.sigmoid(self.pointwise(maps.mean(2, keepdim=True)))
        wide, near = self.norm(maps * rows * columns), self.local(maps)
        of_wide = torch.softmax(self.norm.bias, 0).reshape(1, -1, 1, 1)
        of_near = torch.softmax(near.mean((2, 3)), -1).unsqueeze(1)
        from_near = nn.functional.conv2d(near, of_wide)
        from_wide = (of_near @ wide.flatten(2)).reshape(-1, 1, h, w)
        return (maps * torch.sigmoid(from_near + from_wide)).reshape(-1, self.channels, h, w)


MECHANISM = Spec(
    paper=Paper(
        "Efficient Multi-Scale Attention Module with Cross-Spatial Learning",
        "Ouyang et al.",
        "ICASSP 2023",
        "2305.13563",
    ),
    build=EfficientMultiScaleAttention,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=2), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "groups": 4}, {"h": 6, "w": 7}),
        "readme": Preset({"channels": 256, "groups": 32}, {"h": 14, "w": 14}),
    },
)
