"""Asymmetric convolution: a square kernel with a row and a column beside it while training, one square when deployed.

y = relu( BN(W ∗ x) + BN(W_row ∗ x) + BN(W_column ∗ x) )      b o h/s w/s    k × k, 1 × k, k × 1
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ACNet(nn.Module):
    """One block as it is trained.

    Args:
        channels: inputs.
        out_channels: outputs; as many as inputs unless given.
        kernel: side of the square kernel.
        stride: of all branches.
        groups: of all branches.

    Raises:
        ValueError: ``kernel`` is even, or ``groups`` does not divide the channels.
    """

    def __init__(
        self, channels: int = 16, out_channels: int | None = None, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        positive(channels=channels, kernel=kernel, stride=stride, groups=groups)
        super().__init__()
        out = channels if out_channels is None else out_channels
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that its middle row and column exist; got {kernel}")
        if channels % groups or out % groups:
            raise ValueError(f"groups must divide the channels; {groups} does not divide {channels} and {out}")
        self.square = ConvBN(channels, out, kernel, stride=stride, groups=groups)
        self.row = ConvBN(channels, out, (1, kernel), stride=stride, groups=groups)
        self.column = ConvBN(channels, out, (kernel, 1), stride=stride, groups=groups)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Sum the branches."""
        return torch.relu(self.square(x) + self.row(x) + self.column(x))


MECHANISM = Spec(
    paper=Paper("ACNet: Strengthening the Kernel Skeletons", "Ding et al.", "ICCV 2019", "1908.03930"),
    build=ACNet,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512}, {"h": 49, "w": 49}),
    },
    variants={
        "strided": Preset(
            {"channels": 16, "out_channels": 24, "kernel": 5, "stride": 2, "groups": 4}, {"h": 9, "w": 11}
        ),
    },
    checkpoint={r"^brb_3x3\.": "square.", r"^brb_1x3\.": "row.", r"^brb_3x1\.": "column."},
)
