"""Diverse branch block: k×k, 1×1, 1×1 then k×k, and 1×1 then average pooling, summed; one k×k when deployed.

    y = BN(W ∗ x) + BN(P ∗ x) + BN(V ∗ BN(Q · x̃)) + BN(avg_k(BN(R · x̃)))      b o h/s w/s

x̃ is x with its border, so that behind the inner batch norms the border holds what they make of zero.

NOTE: the authors write Q as 1 + Q', and leave P and R out where the block is depth-wise; deployed, both are the same.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class DiverseBranchBlock(nn.Module):
    """The full block as it is trained; the non-linearity behind it is the network's.

    Args:
        channels: inputs.
        out_channels: outputs.
        kernel: side of the deployed kernel.
        stride: of all branches.
        groups: of all branches.

    Raises:
        ValueError: ``kernel`` is even or 1, or ``groups`` does not divide the channels.
    """

    def __init__(
        self, channels: int = 16, out_channels: int = 16, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        positive(channels=channels, out_channels=out_channels, stride=stride, groups=groups)
        super().__init__()
        if kernel % 2 == 0 or kernel < 3:
            raise ValueError(f"kernel must be odd and at least 3; got {kernel}")
        if channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide the channels; {groups} does not divide {channels}, {out_channels}")
        self.kernel, self.stride = kernel, stride
        self.square = ConvBN(channels, out_channels, kernel, stride=stride, groups=groups)
        self.point = ConvBN(channels, out_channels, 1, stride=stride, groups=groups)
        self.before_square = ConvBN(channels, channels, 1, groups=groups)
        self.then_square = ConvBN(channels, out_channels, kernel, stride=stride, padding=0, groups=groups)
        self.before_average = ConvBN(channels, out_channels, 1, groups=groups)
        self.average_norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Sum the four branches."""
        wide = F.pad(x, (self.kernel // 2,) * 4)
        average = self.average_norm(F.avg_pool2d(self.before_average(wide), self.kernel, self.stride))
        y: Tensor = self.square(x) + self.point(x) + self.then_square(self.before_square(wide)) + average
        return y


MECHANISM = Spec(
    paper=Paper("Diverse Branch Block: Building a Convolution", "Ding et al.", "CVPR 2021", "2103.13425"),
    build=DiverseBranchBlock,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=3), Dim("w", min=3)),
    presets={
        "test": Preset({"channels": 16, "out_channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64, "out_channels": 64}, {"h": 56, "w": 56}),
    },
    variants={
        "strided": Preset(
            {"channels": 16, "out_channels": 24, "kernel": 5, "stride": 2, "groups": 4}, {"h": 9, "w": 11}
        ),
    },
)
