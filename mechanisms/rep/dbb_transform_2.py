"""Transform II of the diverse branch block: the sum of convolutions of one geometry is one convolution.

y = Σ_i (W_i ∗ x + b_i)      b o h w
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ConvSum(nn.Module):
    """Parallel convolutions, summed.

    Raises:
        ValueError: ``kernel`` is even, or there are no branches.
    """

    def __init__(
        self, channels: int = 8, out_channels: int = 12, kernel: int = 3, branches: int = 2, bias: bool = True
    ) -> None:
        positive(channels=channels, out_channels=out_channels, kernel=kernel)
        super().__init__()
        if kernel % 2 == 0 or branches < 1:
            raise ValueError(f"kernel must be odd and branches positive; got {kernel} and {branches}")
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=bias) for _ in range(branches)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Sum the branches."""
        y: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            y = y + branch(x)
        return y


MECHANISM = Spec(
    paper=Paper("Diverse Branch Block: Building a Convolution", "Ding et al.", "CVPR 2021", "2103.13425"),
    build=ConvSum,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=3), Dim("w", min=3)),
    presets={
        "test": Preset({"channels": 8, "out_channels": 12}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64, "out_channels": 64}, {"h": 56, "w": 56}),
    },
    checkpoint={r"^a\.": "branches.0.", r"^b\.": "branches.1."},
)
