"""Transform VI of the diverse branch block: kernels of several shapes around one middle are one square kernel.

y = W_1×1 ∗ x + W_1×k ∗ x + W_k×1 ∗ x + biases      b o h w
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ConvScales(nn.Module):
    """1×1, 1×k and k×1 convolutions, summed.

    Raises:
        ValueError: ``kernel`` is even.
    """

    def __init__(self, channels: int = 8, out_channels: int = 12, kernel: int = 3, bias: bool = True) -> None:
        positive(channels=channels, out_channels=out_channels, kernel=kernel)
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that it has a middle; got {kernel}")
        reach = kernel // 2
        self.point = nn.Conv2d(channels, out_channels, 1, bias=bias)
        self.row = nn.Conv2d(channels, out_channels, (1, kernel), padding=(0, reach), bias=bias)
        self.column = nn.Conv2d(channels, out_channels, (kernel, 1), padding=(reach, 0), bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Sum the branches."""
        y: Tensor = self.point(x) + self.row(x) + self.column(x)
        return y


MECHANISM = Spec(
    paper=Paper("Diverse Branch Block: Building a Convolution", "Ding et al.", "CVPR 2021", "2103.13425"),
    build=ConvScales,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=3), Dim("w", min=3)),
    presets={
        "test": Preset({"channels": 8, "out_channels": 12}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64, "out_channels": 64, "kernel": 5}, {"h": 56, "w": 56}),
    },
    checkpoint={r"^a\.": "point.", r"^b\.": "row.", r"^c\.": "column."},
)
