"""Transform I of the diverse branch block: a convolution and the batch norm behind it are one convolution.

y = BN(W ∗ x + b)      b o h w
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ConvNorm(nn.Module):
    """A convolution with bias, then batch norm.

    Raises:
        ValueError: ``kernel`` is even, or ``groups`` does not divide the channels.
    """

    def __init__(self, channels: int = 8, out_channels: int = 12, kernel: int = 3, groups: int = 1) -> None:
        positive(channels=channels, out_channels=out_channels, kernel=kernel, groups=groups)
        super().__init__()
        if kernel % 2 == 0 or channels % groups or out_channels % groups:
            raise ValueError(f"kernel ({kernel}) must be odd, groups ({groups}) divide {channels} and {out_channels}")
        self.conv = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, groups=groups)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Convolve, normalise."""
        y: Tensor = self.norm(self.conv(x))
        return y


MECHANISM = Spec(
    paper=Paper("Diverse Branch Block: Building a Convolution", "Ding et al.", "CVPR 2021", "2103.13425"),
    build=ConvNorm,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=3), Dim("w", min=3)),
    presets={
        "test": Preset({"channels": 8, "out_channels": 12}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64, "out_channels": 64}, {"h": 56, "w": 56}),
    },
    checkpoint={r"^0\.": "conv.", r"^1\.": "norm."},
)
