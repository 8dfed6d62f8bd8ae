"""Squeeze-and-excitation: scale each channel by a gate computed from all channel means.

g = sigmoid(W2 · relu(W1 · mean(x)))     b c 1 1
y = x * g                                b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class SqueezeExcite(nn.Module):
    """A channel gate with a bottleneck of ``channels // reduction``.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``.
    """

    def __init__(self, channels: int = 64, reduction: int = 16) -> None:
        positive(channels=channels, reduction=reduction)
        super().__init__()
        if channels % reduction:
            raise ValueError(f"reduction must divide channels; {reduction} does not divide {channels}")
        hidden = channels // reduction
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale the channels of ``x``."""
        z = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(z))))


MECHANISM = Spec(
    paper=Paper("Squeeze-and-Excitation Networks", "Hu et al.", "CVPR 2018", "1709.01507"),
    build=SqueezeExcite,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "reduction": 4}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512, "reduction": 8}, {"h": 7, "w": 7}),
    },
    checkpoint={r"^fc\.0\.": "squeeze.", r"^fc\.2\.": "excite."},
)
