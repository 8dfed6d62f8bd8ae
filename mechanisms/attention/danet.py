"""Dual attention: pixels attend to pixels and channels to channels, side by side.

p = x + γ  V softmax((Wq x)ᵀ (Wk x))ᵀ    b c hw, over all pixels; Wq and Wk lead to c / r channels
s = x + γ' softmax(x xᵀ) x               b c hw, over all channels
y = p + s                                b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import attend
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class PositionAttention(nn.Module):
    """Attention of each pixel to all pixels, added to the map.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``.
    """

    def __init__(self, channels: int = 32, reduction: int = 8) -> None:
        super().__init__()
        if reduction < 1 or channels % reduction:
            raise ValueError(f"reduction must divide channels; {reduction} does not divide {channels}")
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix the pixels."""
        q, k, v = (layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = attend(q, k, v, scale=1.0).transpose(1, 2)
        return x + self.gamma * mixed.reshape_as(x)


class ChannelAttention(nn.Module):
    """Attention of each channel to all channels, added to the map.

    Args:
        inverted: attend to the channels that are least alike, as the authors' code does.
    """

    def __init__(self, inverted: bool = False) -> None:
        super().__init__()
        self.sign = -1.0 if inverted else 1.0
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix the channels."""
        rows = x.flatten(2)
        return x + self.gamma * attend(rows, rows, rows, scale=self.sign).reshape_as(x)


class DualAttention(nn.Module):
    """The sum of the two attentions.

    Args:
        channels: of the map.
        reduction: of queries and keys among the pixels.
        inverted: the channels attend to those least alike: the paper's formula is softmax(x xᵀ), the authors' code
            and weights have softmax(max(x xᵀ) - x xᵀ).

    Raises:
        ValueError: ``reduction`` does not divide ``channels``.
    """

    def __init__(self, channels: int = 32, reduction: int = 8, inverted: bool = False) -> None:
        positive(channels=channels)
        super().__init__()
        self.position = PositionAttention(channels, reduction)
        self.channel = ChannelAttention(inverted)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix pixels and channels."""
        y: Tensor = self.position(x) + self.channel(x)
        return y


MECHANISM = Spec(
    paper=Paper("Dual Attention Network for Scene Segmentation", "Fu et al.", "CVPR 2019", "1809.02983"),
    build=DualAttention,
    tasks=("segmentation",),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512}, {"h": 7, "w": 7}),
    },
    variants={"inverted": Preset({"channels": 32, "inverted": True}, {"h": 7, "w": 9})},
    float16_unsafe="The products of channels are sums over all pixels without a scale, and pass 65504 on large maps.",
)
