"""Convolutional block attention: a gate for the channels, then one for the pixels.

c  = sigmoid(W2 (relu(W1 max(x)) + relu(W1 mean(x))))     b c 1 1, over the pixels
x' = x * c
s  = sigmoid(conv_k([max(x'); mean(x')]))                 b 1 h w, over the channels
y  = x' * s                                               b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class ChannelGate(nn.Module):
    """A gate for each channel from its maximum and its mean.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``.
    """

    def __init__(self, channels: int = 32, reduction: int = 16, hidden: int | None = None, bias: bool = False) -> None:
        super().__init__()
        if hidden is None:
            if reduction < 1 or channels % reduction:
                raise ValueError(f"reduction must divide channels; {reduction} does not divide {channels}")
            hidden = channels // reduction
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        """Return the gate."""
        most, mean = x.amax((2, 3), keepdim=True), x.mean((2, 3), keepdim=True)
        # The last layer is linear, so the two paths meet before it; its bias is that of both.
        hidden = torch.relu(self.squeeze(most)) + torch.relu(self.squeeze(mean))
        return torch.sigmoid(self.excite(hidden))


class SpatialGate(nn.Module):
    """A gate for each pixel from the maximum and the mean of its channels.

    Raises:
        ValueError: ``kernel_size`` is even or not positive.
    """

    def __init__(self, kernel_size: int = 7, bias: bool = False, norm: bool = False) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd; it is {kernel_size}")
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=bias)
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        """Return the gate."""
        pooled = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1)
        return torch.sigmoid(self.norm(self.conv(pooled)))


class CBAM(nn.Module):
    """The two gates, one after the other; by default as the paper's formulas have them.

    Args:
        channels: of the map.
        reduction: of the bottleneck of the channel gate.
        kernel_size: of the spatial gate.
        bias: the convolution of the spatial gate has one, as in External-Attention-pytorch.
        residual: add ``x``, as External-Attention-pytorch does; in the paper the block around it does.
        hidden: width of the bottleneck where that is no whole share of ``channels``.
        mlp_bias: the layers of the channel gate have biases, as in the authors' released code. The last one is added
            once here, where the released code adds it for both pools.
        norm: a batch norm behind the convolution of the spatial gate, as in the authors' released code and timm.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``, or ``kernel_size`` is even.
    """

    def __init__(
        self,
        channels: int = 32,
        reduction: int = 16,
        kernel_size: int = 7,
        bias: bool = False,
        residual: bool = False,
        hidden: int | None = None,
        mlp_bias: bool = False,
        norm: bool = False,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        self.channel = ChannelGate(channels, reduction, hidden, mlp_bias)
        self.spatial = SpatialGate(kernel_size, bias, norm)
        self.residual = residual

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale ``x`` by its gates."""
        gated = x * self.channel(x)
        y: Tensor = gated * self.spatial(gated)
        return x + y if self.residual else y


MECHANISM = Spec(
    paper=Paper("CBAM: Convolutional Block Attention Module", "Woo et al.", "ECCV 2018", "1807.06521"),
    build=CBAM,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "reduction": 4}, {"h": 9, "w": 7}),
        "readme": Preset({"channels": 512, "reduction": 16, "kernel_size": 7}, {"h": 7, "w": 7}),
    },
    variants={
        "residual": Preset({"channels": 32, "reduction": 4, "bias": True, "residual": True}, {"h": 9, "w": 7}),
    },
    sources={
        "external-attention": Source(
            "External-Attention-pytorch, which adds the map and has a bias in the spatial gate",
            shown_by=(r"^ca\.se\.0\.", r"^sa\.conv\.bias$"),
            arguments={"bias": True, "residual": True},
        ),
    },
    checkpoint={
        r"^ca\.": "channel.",
        r"^sa\.": "spatial.",
        r"(^|\.)se\.0\.": r"\1squeeze.",
        r"(^|\.)se\.2\.": r"\1excite.",
    },
)
