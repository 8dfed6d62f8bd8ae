"""Global filter network: a vision transformer with a filter of the spectrum in the place of attention.

x = conv_p(image) + position              b n c
x = x + MLP(LN(filter(LN x)))             depth times
y = W mean_n(LN x)                        b classes
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.attention.gfnet_filter import GlobalFilter
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class GlobalFilterBlock(nn.Module):
    """Filter and channel MLP under one residual connection.

    Args:
        channels: of the tokens.
        height: rows of the map.
        width: columns of the map.
        mlp_ratio: width of the MLP over ``channels``.
        epsilon: of the norms.
    """

    def __init__(self, channels: int, height: int, width: int, mlp_ratio: float = 4.0, epsilon: float = 1e-5) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.norm1 = nn.LayerNorm(channels, epsilon)
        self.filter = GlobalFilter(channels, height, width)
        self.norm2 = nn.LayerNorm(channels, epsilon)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix the tokens, then their channels."""
        y: Tensor = self.mlp(self.norm2(self.filter(self.norm1(x))))
        return x + y


class GFNet(nn.Module):
    """A classifier of square images; gives logits.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the tokens.
        depth: number of blocks.
        mlp_ratio: width of the MLPs over ``channels``.
        classes: number of labels.
        epsilon: of the norms; the released weights were trained with 1e-6.

    Raises:
        ValueError: ``patch`` does not divide ``size``.
    """

    def __init__(
        self,
        size: int = 64,
        patch: int = 8,
        channels: int = 16,
        depth: int = 2,
        mlp_ratio: float = 4.0,
        classes: int = 10,
        epsilon: float = 1e-5,
    ) -> None:
        positive(size=size, patch=patch, channels=channels, depth=depth, classes=classes)
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size; {patch} does not divide {size}")
        side = size // patch
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.position = nn.Parameter(torch.randn(1, side * side, channels) * 0.02)
        self.blocks = nn.Sequential(
            *(GlobalFilterBlock(channels, side, side, mlp_ratio, epsilon) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(channels, epsilon)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.embed(image).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


MECHANISM = Spec(
    paper=Paper("Global Filter Networks for Image Classification", "Rao et al.", "NeurIPS 2021", "2107.00645"),
    build=GFNet,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset({"size": 64, "patch": 8, "channels": 16, "depth": 2}),
        "readme": Preset({"size": 224, "patch": 16, "channels": 384, "depth": 12, "classes": 1000}),
    },
    checkpoint={r"complex_weight$": "weight", r"mlp\.fc1\.": "mlp.0.", r"mlp\.fc2\.": "mlp.2."},
)
