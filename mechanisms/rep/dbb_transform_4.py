"""Transform IV of the diverse branch block: convolutions side by side, concatenated, are one convolution.

y = [W₁ ∗ x + b₁ ; W₂ ∗ x + b₂]      b (o₁ + o₂) h w
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ConvConcat(nn.Module):
    """Convolutions of one input, concatenated over channels.

    Raises:
        ValueError: ``kernel`` is even, or no widths are given.
    """

    def __init__(self, channels: int = 8, widths: Sequence[int] = (4, 6), kernel: int = 3, bias: bool = True) -> None:
        positive(channels=channels, kernel=kernel)
        super().__init__()
        if kernel % 2 == 0 or not widths:
            raise ValueError(f"kernel must be odd and widths given; got {kernel} and {tuple(widths)}")
        self.branches = nn.ModuleList(nn.Conv2d(channels, o, kernel, padding=kernel // 2, bias=bias) for o in widths)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Concatenate the branches."""
        return torch.cat([branch(x) for branch in self.branches], 1)


MECHANISM = Spec(
    paper=Paper("Diverse Branch Block: Building a Convolution", "Ding et al.", "CVPR 2021", "2103.13425"),
    build=ConvConcat,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=3), Dim("w", min=3)),
    presets={
        "test": Preset({"channels": 8, "widths": (4, 6)}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64, "widths": (32, 32)}, {"h": 56, "w": 56}),
    },
    checkpoint={r"^a\.": "branches.0.", r"^b\.": "branches.1."},
)
