"""Conditionally parameterised convolution: kernels weighted by a sigmoid of the channel means, for each image.

r = sigmoid(W · mean(x))                      b k 1 1
y = Σ_k r_k · (W_k ∗ x + b_k)                 b o h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.mixture import MixtureConv
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class CondConv(nn.Module):
    """``experts`` kernels, each weighted by a routing function of the image.

    Args:
        channels: inputs.
        out_channels: outputs.
        kernel: side of the kernels.
        experts: number of kernels.
        stride: of the convolution.
        padding: of the convolution; what keeps the size unless given.
        dilation: of the kernels.
        groups: of the convolution.
        bias: whether the kernels have biases.

    Raises:
        ValueError: ``groups`` does not divide the channels.
    """

    def __init__(
        self,
        channels: int = 16,
        out_channels: int = 24,
        kernel: int = 3,
        experts: int = 4,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        positive(
            channels=channels,
            out_channels=out_channels,
            kernel=kernel,
            experts=experts,
            stride=stride,
            dilation=dilation,
            groups=groups,
        )
        super().__init__()
        self.route = nn.Conv2d(channels, experts, 1, bias=False)
        self.conv = MixtureConv(
            channels,
            out_channels,
            kernel,
            experts,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Weigh the kernels, and convolve with their sum."""
        y: Tensor = self.conv(x, torch.sigmoid(self.route(x.mean((2, 3), keepdim=True))))
        return y


MECHANISM = Spec(
    paper=Paper("CondConv: Conditionally Parameterized Convolutions", "Yang et al.", "NeurIPS 2019", "1904.04971"),
    build=CondConv,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=2), Dim("w", min=2)),
    presets={
        "test": Preset({"channels": 16, "out_channels": 24}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 32, "out_channels": 64, "bias": False}, {"h": 64, "w": 64}),
    },
    variants={
        "grouped": Preset(
            {"channels": 16, "out_channels": 16, "experts": 3, "dilation": 2, "groups": 4, "bias": False},
            {"h": 7, "w": 9},
        ),
    },
    checkpoint={r"^attention\.net\.": "route.", r"^(weight|bias)$": r"conv.\1"},
)
