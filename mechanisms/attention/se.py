"""Squeeze-and-excitation: scale each channel by a gate computed from all channel means.

g = sigmoid(W2 · relu(W1 · mean(x)))     b c 1 1
y = x * g                                b c h w
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class SqueezeExcite(nn.Module):
    """A channel gate with a bottleneck of ``channels // reduction``, by default as in the paper: without biases.

    Args:
        channels: of the map.
        reduction: how much narrower the bottleneck is.
        hidden: width of the bottleneck where that is no whole share of ``channels``: timm rounds it to multiples of 8.
        bias: the two layers have one, as in the authors' released networks, timm and torchvision.
        activation: of the bottleneck; SiLU in EfficientNet.
        hard: the gate is a hard sigmoid, as in MobileNetV3.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``, or ``activation`` is unknown.
    """

    def __init__(
        self,
        channels: int = 64,
        reduction: int = 16,
        hidden: int | None = None,
        bias: bool = False,
        activation: Literal["relu", "silu"] = "relu",
        hard: bool = False,
    ) -> None:
        positive(channels=channels, reduction=reduction)
        super().__init__()
        if hidden is None:
            if channels % reduction:
                raise ValueError(f"reduction must divide channels; {reduction} does not divide {channels}")
            hidden = channels // reduction
        if activation not in ("relu", "silu"):
            raise ValueError(f"activation must be relu or silu; got {activation!r}")
        positive(hidden=hidden)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=bias)
        self.silu, self.hard = activation == "silu", hard

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale the channels of ``x``."""
        z = self.squeeze(x.mean((2, 3), keepdim=True))
        logits = self.excite(F.silu(z) if self.silu else torch.relu(z))
        return x * (F.hardsigmoid(logits) if self.hard else torch.sigmoid(logits))


MECHANISM = Spec(
    paper=Paper("Squeeze-and-Excitation Networks", "Hu et al.", "CVPR 2018", "1709.01507"),
    build=SqueezeExcite,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "reduction": 4}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512, "reduction": 8}, {"h": 7, "w": 7}),
    },
    checkpoint={r"^fc\.0\.": "squeeze.", r"^fc\.2\.": "excite."},
)
