"""Efficient channel attention: gate each channel by the means of its few neighbours in channel order.

k = the odd number next to log2(c) / 2 + 1 / 2
g = sigmoid(conv1d_k(mean(x)))           b c 1 1, along the channels, one kernel for all
y = x * g                                b c h w
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class EfficientChannelAttention(nn.Module):
    """A channel gate of ``kernel_size`` weights.

    Args:
        channels: of the map; only the size of the kernel depends on them.
        kernel_size: channels that a gate sees; derived from ``channels`` unless given.
        gamma: slope of the derivation.
        offset: offset of the derivation, ``b`` in the paper.
        bias: one number added before the sigmoid, as in External-Attention-pytorch; the paper has none.

    Raises:
        ValueError: ``kernel_size`` is even, or greater than ``2 * channels - 1``, or there are no channels.
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int | None = None,
        gamma: float = 2,
        offset: float = 1,
        bias: bool = False,
    ) -> None:
        positive(gamma=gamma)
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be positive; they are {channels}")
        size = derived_kernel_size(channels, gamma, offset) if kernel_size is None else kernel_size
        if size % 2 == 0 or not 1 <= size < 2 * channels:
            raise ValueError(f"kernel_size must be odd and below 2 * channels = {2 * channels}; it is {size}")
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale the channels of ``x``."""
        z = x.mean((2, 3)).unsqueeze(1)
        return x * torch.sigmoid(self.conv(z)).transpose(1, 2).unsqueeze(-1)


def derived_kernel_size(channels: int, gamma: float = 2, offset: float = 1) -> int:
    """Return the odd number next to ``log2(channels) / gamma + offset / gamma``: the one below or, if even, above."""
    size = int(abs((math.log2(channels) + offset) / gamma))
    return size if size % 2 else size + 1


def without_zero_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop a bias that adds nothing; any other means a gate with ``bias``."""
    return {name: value for name, value in state.items() if name != "conv.bias" or bool(value.any())}


MECHANISM = Spec(
    paper=Paper(
        "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
        "Wang et al.",
        "CVPR 2020",
        "1910.03151",
    ),
    build=EfficientChannelAttention,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512, "kernel_size": 3}, {"h": 7, "w": 7}),
    },
    sources={
        "external-attention": Source(
            "External-Attention-pytorch, whose convolution has a bias",
            shown_by=(r"^conv\.weight$", r"^conv\.bias$"),
            arguments={"bias": True},
        ),
    },
    convert=without_zero_bias,
)
