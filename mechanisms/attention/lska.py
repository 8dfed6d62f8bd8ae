"""Large separable kernel attention: large kernel attention with each convolution cut into a row and a column.

g = W · far_column(far_row(near_column(near_row(x))))      b c h w; near 2d - 1 long, far ⌊K/d⌋ dilated by d
y = x * g                                                  b c h w
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class LargeSeparableKernelAttention(nn.Module):
    """A gate with a large receptive field whose cost grows with the side of its kernel, not with the area.

    Args:
        channels: of the map.
        kernel_size: side of the square that is approximated; the paper has 7, 11, 23, 35, 41 and 53.
        dilation: of the far convolutions; the paper has 2 up to 11, then 3.

    Raises:
        ValueError: ``dilation`` is not positive, or the dilated kernels would have an even length.
    """

    def __init__(self, channels: int = 32, kernel_size: int = 23, dilation: int = 3) -> None:
        positive(channels=channels)
        super().__init__()
        if dilation < 1:
            raise ValueError(f"dilation must be positive; it is {dilation}")
        near, far = 2 * dilation - 1, kernel_size // dilation
        if far < 1 or far % 2 == 0:
            raise ValueError(f"kernel_size // dilation must be odd; {kernel_size} // {dilation} gives {far}")

        def line(length: int, step: int, *, row: bool) -> nn.Conv2d:
            size, reach = ((1, length), (0, step * (length // 2))) if row else ((length, 1), (step * (length // 2), 0))
            return nn.Conv2d(channels, channels, size, padding=reach, groups=channels, dilation=step)

        self.near_row, self.near_column = line(near, 1, row=True), line(near, 1, row=False)
        self.far_row, self.far_column = line(far, dilation, row=True), line(far, dilation, row=False)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate each pixel by what lies around it."""
        near = self.near_column(self.near_row(x))
        y: Tensor = x * self.mix(self.far_column(self.far_row(near)))
        return y


MECHANISM = Spec(
    paper=Paper(
        "Large Separable Kernel Attention: Rethinking the Large Kernel Attention Design in CNN",
        "Lau et al.",
        "Expert Systems with Applications 2024",
        "2309.01439",
    ),
    build=LargeSeparableKernelAttention,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 8}, {"h": 9, "w": 11}),
        "readme": Preset({"channels": 64}, {"h": 56, "w": 56}),
    },
    variants={
        "small": Preset({"channels": 8, "kernel_size": 7, "dilation": 2}, {"h": 9, "w": 11}),
    },
)
