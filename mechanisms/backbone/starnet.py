"""StarNet: two maps of the channels are multiplied element by element, which makes products of pairs of them. Logits.

u = BN(D ∗ x)                                     b c h w      depth-wise 7 × 7
x = x + D2 ∗ BN(G (relu6(F1 u) * F2 u))           b c h w      F1 and F2 to ``expand`` · c; D2 depth-wise 7 × 7
y = W mean(BN(x))                                 b classes
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class StarBlock(nn.Module):
    """Filter, multiply two projections, narrow, filter; beside a shortcut (paper, figure 3)."""

    def __init__(self, channels: int = 16, expand: int = 4) -> None:
        positive(channels=channels, expand=expand)
        super().__init__()
        wide = channels * expand
        self.dwconv = ConvBN(channels, channels, 7, groups=channels, bias=True)
        self.f1, self.f2 = nn.Conv2d(channels, wide, 1), nn.Conv2d(channels, wide, 1)
        self.g = ConvBN(wide, channels, bias=True)
        self.dwconv2 = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix places and multiply channels."""
        u = self.dwconv(x)
        y: Tensor = x + self.dwconv2(self.g(F.relu6(self.f1(u)) * self.f2(u)))
        return y


class StarNet(nn.Module):
    """A classifier; the defaults are S1 (paper, table 8).

    Args:
        width: channels of the first stage; they double from stage to stage.
        depths: blocks of the stages.
        expand: how many times wider the two maps are that are multiplied.
        stem: channels of the first convolution.
        classes: outputs.
    """

    def __init__(
        self,
        width: int = 24,
        depths: Sequence[int] = (2, 2, 8, 3),
        expand: int = 4,
        stem: int = 32,
        classes: int = 1000,
    ) -> None:
        positive(width=width, expand=expand, stem=stem, classes=classes)
        super().__init__()
        self.stem = nn.Sequential(ConvBN(3, stem, 3, stride=2, bias=True), nn.ReLU6())
        stages, before = list[nn.Module](), stem
        for level, depth in enumerate(depths):
            channels = width * 2**level
            halve = ConvBN(before, channels, 3, stride=2, bias=True)
            stages.append(nn.Sequential(halve, *(StarBlock(channels, expand) for _ in range(depth))))
            before = channels
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        y: Tensor = self.head(self.norm(self.stages(self.stem(x))).mean((2, 3)))
        return y


MECHANISM = Spec(
    paper=Paper("Rewrite the Stars", "Ma et al.", "CVPR 2024", "2403.19967"),
    build=StarNet,
    inputs=(Input("x", ("b", 3, "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset({"width": 4, "depths": (1, 1, 1, 1), "expand": 2, "stem": 8, "classes": 10}, {"h": 48, "w": 40}),
        "readme": Preset({}, {"h": 224, "w": 224}),
        "s2": Preset({"width": 32, "depths": (1, 2, 6, 2)}, {"h": 224, "w": 224}),
        "s3": Preset({"width": 32, "depths": (2, 2, 8, 4)}, {"h": 224, "w": 224}),
        "s4": Preset({"width": 32, "depths": (3, 3, 12, 5)}, {"h": 224, "w": 224}),
    },
    checkpoint={r"\.(f1|f2|dwconv2)\.conv\.": r".\1."},
)
