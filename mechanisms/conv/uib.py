"""Universal inverted bottleneck: an inverted residual with a depth-wise filter before it, inside it, both or none.

u = BN(D_a ∗ x)                             b c h w        where ``start`` is not 0
v = relu(BN(E · u))                         b e h w        e = expand · c
v = relu(BN(D_b ∗ v))                       b e h/s w/s    where ``middle`` is not 0
y = BN(P · v) (+ x where s = 1 and o = c)   b o h/s w/s

start and middle: extra depth-wise · middle: inverted bottleneck · start: ConvNeXt-like · none: feed-forward
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import not_negative, positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class UniversalInvertedBottleneck(nn.Module):
    """One block of MobileNetV4.

    Args:
        channels: inputs.
        out_channels: outputs; as many as inputs unless given.
        start: side of the depth-wise kernel before the widening; 0 for none.
        middle: side of the one behind it; 0 for none.
        stride: of the depth-wise filter in the middle, or else of the one at the start.
        expand: how many times wider the middle is.

    Raises:
        ValueError: a kernel is even and not 0, or there is a stride and no depth-wise filter to take it.
    """

    def __init__(
        self,
        channels: int = 16,
        out_channels: int | None = None,
        start: int = 3,
        middle: int = 3,
        stride: int = 1,
        expand: int = 4,
    ) -> None:
        positive(channels=channels, stride=stride, expand=expand)
        not_negative(start=start, middle=middle)
        super().__init__()
        out = channels if out_channels is None else out_channels
        if any(kernel and kernel % 2 == 0 for kernel in (start, middle)):
            raise ValueError(f"kernels must be odd, or 0 for none; got {start} and {middle}")
        if stride > 1 and not (start or middle):
            raise ValueError(f"a stride needs a depth-wise filter: give start or middle, or stride 1; got {stride}")
        wide = channels * expand
        first = 1 if middle else stride
        self.start = ConvBN(channels, channels, start, stride=first, groups=channels) if start else nn.Identity()
        self.widen = ConvBN(channels, wide)
        self.middle = ConvBN(wide, wide, middle, stride=stride, groups=wide) if middle else None
        self.narrow = ConvBN(wide, out)
        self.residual = stride == 1 and out == channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Filter, widen, filter, narrow."""
        v = torch.relu(self.widen(self.start(x)))
        y: Tensor = self.narrow(v if self.middle is None else torch.relu(self.middle(v)))
        return y + x if self.residual else y


MECHANISM = Spec(
    paper=Paper("MobileNetV4: Universal Models for the Mobile Ecosystem", "Qin et al.", "ECCV 2024", "2404.10518"),
    build=UniversalInvertedBottleneck,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 96}, {"h": 14, "w": 14}),
    },
    variants={
        "inverted": Preset({"channels": 8, "out_channels": 12, "start": 0, "middle": 5, "stride": 2}, {"h": 9, "w": 8}),
        "convnext": Preset({"channels": 8, "out_channels": 12, "start": 5, "middle": 0, "stride": 2}, {"h": 9, "w": 8}),
        "feedforward": Preset({"channels": 8, "start": 0, "middle": 0}, {"h": 9, "w": 8}),
    },
)
