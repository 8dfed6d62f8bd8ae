"""Partial convolution: filter the first channels, leave the others as they are.

y = concat(W ∗ x[: m], x[m :])      b c h w    m = c / divisor, W: k × k, dense
block: y = x + P · relu(BN(Q · pconv(x)))      Q: 1 × 1 to expand · c channels
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class PartialConv(nn.Module):
    """A convolution of one channel in ``divisor``.

    Args:
        channels: of the map.
        divisor: share of the channels that is convolved.
        kernel: side of the kernel.

    Raises:
        ValueError: ``divisor`` is below 2 or above ``channels``, or ``kernel`` is even.
    """

    def __init__(self, channels: int = 16, divisor: int = 4, kernel: int = 3) -> None:
        positive(channels=channels, kernel=kernel)
        super().__init__()
        if not 2 <= divisor <= channels or kernel % 2 == 0:
            raise ValueError(f"divisor must be in 2 … {channels} and kernel odd; got {divisor} and {kernel}")
        self.part = channels // divisor
        self.conv = nn.Conv2d(self.part, self.part, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Convolve the first channels."""
        return torch.cat([self.conv(x[:, : self.part]), x[:, self.part :]], 1)


class FasterNetBlock(nn.Module):
    """The block around it: a partial convolution mixes the pixels, two 1×1 the channels.

    Args:
        channels: of the map.
        divisor: share of the channels that is convolved.
        expand: how many times wider the middle is.
    """

    def __init__(self, channels: int = 16, divisor: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.mix = PartialConv(channels, divisor)
        self.widen = ConvBN(channels, channels * expand)
        self.narrow = nn.Conv2d(channels * expand, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add what the two mixings give."""
        y: Tensor = x + self.narrow(torch.relu(self.widen(self.mix(x))))
        return y


MECHANISM = Spec(
    paper=Paper(
        "Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks", "Chen et al.", "CVPR 2023", "2303.03667"
    ),
    build=PartialConv,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64}, {"h": 56, "w": 56}),
    },
    variants={"block": Preset({"channels": 12, "divisor": 3}, {"h": 7, "w": 9}, build=FasterNetBlock)},
)
