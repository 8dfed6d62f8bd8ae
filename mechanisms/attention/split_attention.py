"""Split attention: branches of a grouped convolution, weighted against each other channel by channel.

u_1 … u_r = relu(norm(conv(x)))                                      b c h w each, r splits of g groups
a = softmax_r(W2 · relu(norm(W1 · mean(Σ_r u_r))))                   b r c, W1 and W2 in g groups; r = 1: sigmoid
y = Σ_r a_r u_r                                                      b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class SplitAttention(nn.Module):
    """A convolution whose splits compete; it takes the place of the 3 × 3 convolution of a bottleneck.

    Args:
        channels: that come in.
        outputs: that go out; as many as come in unless given.
        radix: number of splits.
        groups: cardinal groups, each with splits and weights of its own.
        kernel_size: of the convolution.
        stride: of the convolution.
        reduction: how much narrower the bottleneck of the weights is than all splits together.
        least: its smallest width.

    Raises:
        ValueError: ``groups * radix`` does not divide the channels, ``groups`` the bottleneck, or ``kernel_size`` is
            even.
    """

    def __init__(
        self,
        channels: int = 32,
        outputs: int | None = None,
        radix: int = 2,
        groups: int = 1,
        kernel_size: int = 3,
        stride: int = 1,
        reduction: int = 4,
        least: int = 32,
    ) -> None:
        positive(channels=channels, stride=stride, reduction=reduction)
        super().__init__()
        outputs = outputs or channels
        if radix < 1 or groups < 1 or channels % (groups * radix) or outputs % groups:
            raise ValueError(
                f"groups * radix must divide channels, and groups outputs; groups {groups}, radix {radix},"
                f" channels {channels}, outputs {outputs}"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd; it is {kernel_size}")
        hidden = max(channels * radix // reduction, least)
        if hidden % groups:
            raise ValueError(f"groups must divide the bottleneck; {groups} does not divide {hidden}")
        self.radix, self.groups, self.outputs = radix, groups, outputs
        wide = outputs * radix
        self.split = ConvBN(channels, wide, kernel_size, stride=stride, groups=groups * radix)
        self.squeeze = nn.Sequential(nn.Conv2d(outputs, hidden, 1, groups=groups), nn.BatchNorm2d(hidden), nn.ReLU())
        self.excite = nn.Conv2d(hidden, wide, 1, groups=groups)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Convolve and weigh."""
        wide = torch.relu(self.split(x))
        # Splits outermost, then channels: each split is one slice, whatever the number of groups.
        # The mean of the sum is the sum of the means, and pooling first writes no map.
        means = wide.mean((2, 3)).reshape(-1, self.radix, self.outputs).sum(1)
        logits = self.excite(self.squeeze(means.reshape(-1, self.outputs, 1, 1)))
        if self.radix == 1:
            return wide * torch.sigmoid(logits)
        grouped = logits.reshape(-1, self.groups, self.radix, self.outputs // self.groups)
        weights = torch.softmax(grouped.transpose(1, 2), 1).reshape(-1, self.radix * self.outputs, 1, 1)
        parts = (wide * weights).chunk(self.radix, 1)
        y = parts[0]
        for part in parts[1:]:
            y = y + part
        return y


MECHANISM = Spec(
    paper=Paper("ResNeSt: Split-Attention Networks", "Zhang et al.", "CVPRW 2022", "2004.08955"),
    build=SplitAttention,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "least": 8}, {"h": 6, "w": 7}),
        "readme": Preset({"channels": 128}, {"h": 28, "w": 28}),
    },
    variants={
        "grouped": Preset(
            {"channels": 24, "outputs": 16, "groups": 2, "radix": 3, "stride": 2, "least": 8}, {"h": 7, "w": 7}
        ),
        "one_split": Preset({"channels": 16, "radix": 1, "groups": 2, "least": 8}, {"h": 6, "w": 7}),
    },
)
