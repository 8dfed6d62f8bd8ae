"""Inception depth-wise convolution: a square, a row and a column kernel for a few channels each, the rest untouched.

y = concat( x_0, D_{3×3} ∗ x_1, D_{1×k} ∗ x_2, D_{k×1} ∗ x_3 )      b c h w    x_1, x_2, x_3 have c · ratio channels
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class InceptionDepthwise(nn.Module):
    """InceptionNeXt's token mixer.

    Args:
        channels: of the map.
        square: side of the square kernel.
        band: length of the row and of the column.
        ratio: share of the channels that each of the three filters.

    Raises:
        ValueError: a kernel is even, or ``ratio`` gives the filters no channel or all of them.
    """

    def __init__(self, channels: int = 16, square: int = 3, band: int = 11, ratio: float = 0.125) -> None:
        positive(square=square, band=band)
        super().__init__()
        part = int(channels * ratio)
        if square % 2 == 0 or band % 2 == 0:
            raise ValueError(f"kernels must be odd; got {square} and {band}")
        if not 0 < 3 * part < channels:
            raise ValueError(f"three times ratio {ratio} of {channels} channels must be some of them, not all")
        self.sizes = [channels - 3 * part, part, part, part]
        self.square = nn.Conv2d(part, part, square, padding=square // 2, groups=part)
        self.row = nn.Conv2d(part, part, (1, band), padding=(0, band // 2), groups=part)
        self.column = nn.Conv2d(part, part, (band, 1), padding=(band // 2, 0), groups=part)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Filter the last three parts of the channels."""
        rest, square, row, column = torch.split(x, self.sizes, 1)
        return torch.cat([rest, self.square(square), self.row(row), self.column(column)], 1)


MECHANISM = Spec(
    paper=Paper("InceptionNeXt: When Inception Meets ConvNeXt", "Yu et al.", "CVPR 2024", "2303.16900"),
    build=InceptionDepthwise,
    tasks=("classification", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 96}, {"h": 56, "w": 56}),
    },
    variants={"wide": Preset({"channels": 12, "square": 5, "band": 7, "ratio": 0.25}, {"h": 9, "w": 8})},
)
