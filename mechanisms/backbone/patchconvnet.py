"""PatchConvNet: convolutions on a map of one size, and one attention that gathers it for the class. Logits.

x = stem ∗ image                                               four 3 × 3 at stride 2
u = C3 ∗ gate(gelu(D ∗ gelu(C1 ∗ LN x)))                       C 1 × 1, D depth-wise 3 × 3, gate by channel
x = x + a * u                                                  depth times
c = c + a * A(LN [c; x]);  c = c + m * MLP(LN c);  y = W LN c  see ``class_attention``
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.channel_gate import ChannelGate
from attn_export.mechanisms._layers.channel_norm import ChannelNorm
from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.class_attention import ClassAttention, ClassBlock
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class GatedConvBlock(nn.Module):
    """Three convolutions with a gate before the last, scaled by channel beside a shortcut."""

    def __init__(self, channels: int, scale: float = 1e-6) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.mix = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.GELU(),
            ChannelGate(channels, max(1, channels // 4)),
            nn.Conv2d(channels, channels, 1),
        )
        self.gamma = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix."""
        y: Tensor = x + self.gamma[:, None, None] * self.mix(self.norm(x))
        return y


class PatchConvNet(nn.Module):
    """A classifier; the defaults are S60.

    Args:
        channels: of the map.
        depth: number of blocks.
        mlp_ratio: width of the class token's MLP over ``channels``.
        classes: outputs.
    """

    def __init__(self, channels: int = 384, depth: int = 60, mlp_ratio: float = 3.0, classes: int = 1000) -> None:
        positive(channels=channels, depth=depth, classes=classes)
        super().__init__()
        if channels % 8:
            raise ValueError(f"channels must be a multiple of 8; got {channels}")
        widths = (3, channels // 8, channels // 4, channels // 2, channels)
        self.stem = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False) for inputs, outputs in pairwise(widths)
        )
        self.blocks = nn.Sequential(*(GatedConvBlock(channels) for _ in range(depth)))
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        attention = ClassAttention(channels, 1)
        self.gather = ClassBlock(channels, attention, mlp_ratio, epsilon=1e-6, scale=1e-5)
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        for index, convolution in enumerate(self.stem):
            x = convolution(F.gelu(x) if index else x)
        tokens = self.blocks(x).flatten(2).transpose(1, 2)
        first = self.gather(torch.cat((self.cls_token.expand(tokens.shape[0], -1, -1), tokens), 1))
        y: Tensor = self.head(self.norm(first[:, 0]))
        return y


MECHANISM = Spec(
    paper=Paper(
        "Augmenting Convolutional networks with attention-based aggregation",
        "Touvron et al.",
        "arXiv 2021",
        "2112.13692",
    ),
    build=PatchConvNet,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", 3, "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset({"channels": 32, "depth": 2, "classes": 10}, {"h": 64, "w": 64}),
        "readme": Preset({}, {"h": 224, "w": 224}),
    },
    checkpoint={
        r"^patch_embed\.proj\.0\.0\.": "stem.0.",
        r"^patch_embed\.proj\.2\.0\.": "stem.1.",
        r"^patch_embed\.proj\.4\.0\.": "stem.2.",
        r"^patch_embed\.proj\.6\.0\.": "stem.3.",
        r"^blocks\.(\d+)\.attn\.qkv_pos\.": r"blocks.\1.mix.",
        r"^blocks\.(\d+)\.norm1\.": r"blocks.\1.norm.",
        r"^blocks\.(\d+)\.gamma_1$": r"blocks.\1.gamma",
        r"^blocks_token_only\.0\.": "gather.",
        r"^gather\.attn\.": "gather.attention.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
