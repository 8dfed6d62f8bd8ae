"""Depth-wise separable convolution: one kernel for each channel, then a 1×1 convolution over the channels.

u = relu(BN(D ∗ x))     b c h/s w/s    D: one k × k kernel a channel
y = relu(BN(P ∗ u))     b o h/s w/s    P: 1 × 1
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class DepthwiseSeparable(nn.Module):
    """Depth-wise, then point-wise, each with batch norm and ReLU.

    Args:
        channels: inputs.
        out_channels: outputs.
        kernel: side of the depth-wise kernel.
        stride: of the depth-wise convolution.
        norm: batch norms; without them the convolutions have biases, as in External-Attention-pytorch.
        relu: behind both convolutions; External-Attention-pytorch has none.

    Raises:
        ValueError: ``kernel`` is even.
    """

    def __init__(
        self,
        channels: int = 16,
        out_channels: int = 24,
        kernel: int = 3,
        stride: int = 1,
        norm: bool = True,
        relu: bool = True,
    ) -> None:
        positive(channels=channels, out_channels=out_channels, kernel=kernel, stride=stride)
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd to keep pixels in their place; got {kernel}")
        self.depthwise = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=not norm)
        self.depthwise_norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.pointwise = nn.Conv2d(channels, out_channels, 1, bias=not norm)
        self.bend = nn.ReLU() if relu else nn.Identity()
        self.pointwise_norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Filter each channel, then mix them."""
        u = self.bend(self.depthwise_norm(self.depthwise(x)))
        y: Tensor = self.bend(self.pointwise_norm(self.pointwise(u)))
        return y


MECHANISM = Spec(
    paper=Paper("MobileNets: Efficient Convolutional Neural Networks", "Howard et al.", "2017", "1704.04861"),
    build=DepthwiseSeparable,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "out_channels": 24}, {"h": 9, "w": 7}),
        "readme": Preset({"channels": 3, "out_channels": 64}, {"h": 224, "w": 224}),
    },
    variants={
        "strided": Preset({"channels": 16, "out_channels": 24, "kernel": 5, "stride": 2}, {"h": 9, "w": 8}),
    },
    sources={
        "external-attention": Source(
            "External-Attention-pytorch, two convolutions with biases and nothing between them",
            shown_by=(r"^depthwise_conv\.bias$", r"^pointwise_conv\.bias$"),
            arguments={"norm": False, "relu": False},
        ),
    },
    checkpoint={r"^depthwise_conv\.": "depthwise.", r"^pointwise_conv\.": "pointwise."},
)
