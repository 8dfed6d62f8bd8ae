"""Dynamic convolution: a softmax over several kernels, chosen for each image from its channel means.

π = softmax(W2 · relu(W1 · mean(x)) / τ)      b k 1 1
y = Σ_k π_k · (W_k ∗ x + b_k)                 b o h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.mixture import MixtureConv
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class DynamicConv(nn.Module):
    """``experts`` kernels mixed by attention over kernels.

    Args:
        channels: inputs.
        out_channels: outputs.
        kernel: side of the kernels.
        experts: number of kernels.
        temperature: divides the logits; the paper anneals it from 30 to 1 while training, and deploys at 1.
        reduction: how many times narrower the attention's hidden layer is.
        stride: of the convolution.
        padding: of the convolution; what keeps the size unless given.
        dilation: of the kernels.
        groups: of the convolution.
        bias: whether the kernels have biases.

    Raises:
        ValueError: ``groups`` does not divide the channels, or ``temperature`` is not positive.
    """

    def __init__(
        self,
        channels: int = 16,
        out_channels: int = 24,
        kernel: int = 3,
        experts: int = 4,
        temperature: float = 1.0,
        reduction: int = 4,
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
            reduction=reduction,
            stride=stride,
            dilation=dilation,
            groups=groups,
        )
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        hidden = max(1, channels // reduction)
        self.temperature = temperature
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.choose = nn.Conv2d(hidden, experts, 1, bias=False)
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
        """Choose a mixture, and convolve with it."""
        logits = self.choose(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        y: Tensor = self.conv(x, torch.softmax(logits / self.temperature, 1))
        return y


MECHANISM = Spec(
    paper=Paper("Dynamic Convolution: Attention over Convolution Kernels", "Chen et al.", "CVPR 2020", "1912.03458"),
    build=DynamicConv,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=2), Dim("w", min=2)),
    presets={
        "test": Preset({"channels": 16, "out_channels": 24}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 32, "out_channels": 64, "bias": False}, {"h": 64, "w": 64}),
    },
    variants={
        "grouped": Preset(
            {"channels": 16, "out_channels": 24, "experts": 3, "stride": 2, "groups": 4, "bias": False},
            {"h": 7, "w": 9},
        ),
    },
    sources={
        "annealed": Source(
            "External-Attention-pytorch, trained until its temperature reached 1",
            shown_by=(r"^attention\.net\.0\.", r"^attention\.net\.2\."),
            arguments={"temperature": 1.0},
        ),
        "temperature-30": Source(
            "External-Attention-pytorch with the temperature 30 that its constructor gives and a state dict forgets",
            shown_by=(r"^attention\.net\.0\.", r"^attention\.net\.2\."),
            arguments={"temperature": 30.0},
        ),
    },
    checkpoint={
        r"^attention\.net\.0\.": "squeeze.",
        r"^attention\.net\.2\.": "choose.",
        r"^(weight|bias)$": r"conv.\1",
    },
)
