"""Sparse MLP: one linear layer along rows, one along columns, and the input itself, fused by a 1×1 convolution.

y = W · [W_h along h (x) ; W_w along w (x) ; x]      b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class SparseMLP(nn.Module):
    """The mixing block of sMLPNet, on maps of one size.

    Args:
        channels: of the map.
        height: rows.
        width: columns.
    """

    def __init__(self, channels: int = 12, height: int = 7, width: int = 9) -> None:
        positive(channels=channels, height=height, width=width)
        super().__init__()
        self.down = nn.Linear(height, height)
        self.along = nn.Linear(width, width)
        self.fuse = nn.Conv2d(3 * channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix along both axes."""
        down = self.down(x.transpose(2, 3)).transpose(2, 3)
        y: Tensor = self.fuse(torch.cat((down, self.along(x), x), 1))
        return y


MECHANISM = Spec(
    paper=Paper("Sparse MLP for Image Recognition", "Tang et al.", "AAAI 2022", "2109.05422"),
    build=SparseMLP,
    inputs=(Input("x", ("b", "channels", "height", "width")),),
    dynamic=(Dim("b"),),
    presets={
        "test": Preset({"channels": 12, "height": 7, "width": 9}),
        "readme": Preset({"channels": 3, "height": 224, "width": 224}),
    },
    checkpoint={r"^proj_h\.": "down.", r"^proj_w\.": "along."},
)
