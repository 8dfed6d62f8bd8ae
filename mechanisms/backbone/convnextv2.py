"""ConvNeXt V2: large depth-wise kernels, and channels that compete by their response over the whole map. Logits.

u = gelu(W1 LN(D ∗ x))                    b h w 4c      D: depth-wise 7 × 7
g = norm_(h w)(u);  n = g / mean_c(g)     b 1 1 4c
x = x + W2 (u + γ * (u * n) + β)          b h w c
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.channel_norm import ChannelNorm
from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class GlobalResponseNorm(nn.Module):
    """Scale each channel by its norm over the map, relative to that of all channels (paper, section 3.3)."""

    def __init__(self, channels: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Normalise, and add to what was given."""
        response: Tensor = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        share = response / (response.mean(-1, keepdim=True) + self.epsilon)
        y: Tensor = self.gamma * (x * share) + self.beta + x
        return y


class ConvNeXtV2Block(nn.Module):
    """A depth-wise convolution, and an MLP on each pixel, beside a shortcut."""

    def __init__(self, channels: int, kernel: int = 7) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix places, then channels."""
        normed = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y: Tensor = self.pwconv2(self.grn(F.gelu(self.pwconv1(normed))))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXtV2(nn.Module):
    """A classifier; the defaults are Atto.

    Args:
        widths: channels of the four stages.
        depths: blocks of the four stages.
        classes: outputs.
    """

    def __init__(
        self, widths: Sequence[int] = (40, 80, 160, 320), depths: Sequence[int] = (2, 2, 6, 2), classes: int = 1000
    ) -> None:
        positive(classes=classes)
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0]))
        halve = (
            nn.Sequential(ChannelNorm(before), nn.Conv2d(before, after, 2, 2)) for before, after in pairwise(widths)
        )
        self.downsample_layers = nn.ModuleList([stem, *halve])
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtV2Block(width) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], 1e-6)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        for smaller, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(smaller(x))
        y: Tensor = self.head(self.norm(x.mean((2, 3))))
        return y


def _shaped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give what timm keeps of a response norm as one axis its four."""
    return {
        name: value.reshape(1, 1, 1, -1) if name.rpartition(".")[0].endswith("mlp.grn") else value
        for name, value in state.items()
    }


MECHANISM = Spec(
    paper=Paper(
        "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders",
        "Woo et al.",
        "CVPR 2023",
        "2301.00808",
    ),
    build=ConvNeXtV2,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", 3, "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset({"widths": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "classes": 10}, {"h": 64, "w": 64}),
        "readme": Preset({}, {"h": 224, "w": 224}),
        "nano": Preset({"widths": (80, 160, 320, 640), "depths": (2, 2, 8, 2)}, {"h": 224, "w": 224}),
        "tiny": Preset({"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3)}, {"h": 224, "w": 224}),
    },
    convert=_shaped,
    checkpoint={
        r"^stem\.": "downsample_layers.0.",
        r"^stages\.(\d+)\.downsample\.": r"downsample_layers.\1.",
        r"^stages\.(\d+)\.blocks\.": r"stages.\1.",
        r"\.conv_dw\.": ".dwconv.",
        r"\.mlp\.fc([12])\.": r".pwconv\1.",
        r"\.mlp\.grn\.weight$": ".grn.gamma",
        r"\.mlp\.grn\.bias$": ".grn.beta",
        r"^head\.norm\.": "norm.",
        r"^head\.fc\.": "head.",
    },
)
