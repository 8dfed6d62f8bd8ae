"""Transform III of the diverse branch block: a 1×1 convolution and a k×k convolution behind it are one convolution.

y = W₂ ∗ (W₁ · pad(x) + b₁) + b₂      b o h w
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ConvSequence(nn.Module):
    """1×1, then k×k. The border is padded before the 1×1, so that behind it the border holds the bias and not zero.

    Raises:
        ValueError: ``kernel`` is even, or ``groups`` does not divide the channels.
    """

    def __init__(
        self,
        channels: int = 8,
        hidden: int = 12,
        out_channels: int = 16,
        kernel: int = 3,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        positive(channels=channels, hidden=hidden, out_channels=out_channels, kernel=kernel, groups=groups)
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd; got {kernel}")
        if channels % groups or hidden % groups or out_channels % groups:
            raise ValueError(f"groups must divide the channels; {groups}: {channels}, {hidden}, {out_channels}")
        self.reach = kernel // 2
        self.pointwise = nn.Conv2d(channels, hidden, 1, groups=groups, bias=bias)
        self.spatial = nn.Conv2d(hidden, out_channels, kernel, groups=groups, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Pad, mix channels, look around."""
        y: Tensor = self.spatial(self.pointwise(F.pad(x, (self.reach,) * 4)))
        return y


MECHANISM = Spec(
    paper=Paper("Diverse Branch Block: Building a Convolution", "Ding et al.", "CVPR 2021", "2103.13425"),
    build=ConvSequence,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=3), Dim("w", min=3)),
    presets={
        "test": Preset({"channels": 8, "hidden": 12, "out_channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64, "hidden": 64, "out_channels": 64}, {"h": 56, "w": 56}),
    },
    variants={
        "grouped": Preset({"channels": 8, "hidden": 12, "out_channels": 16, "groups": 4}, {"h": 7, "w": 9}),
    },
    checkpoint={r"^0\.": "pointwise.", r"^1\.": "spatial."},
)
