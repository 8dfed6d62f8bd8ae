"""Global attention: a gate from an MLP over the channels of each pixel, then one from two large convolutions.

u = x * sigmoid(W2 · relu(W1 · x))                        b c h w, W1 and W2 act on the channels of each pixel
y = u * shuffle(sigmoid(norm(conv(relu(norm(conv(u)))))))     b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class GlobalAttention(nn.Module):
    """Two gates in sequence, neither of which pools.

    Args:
        channels: of the map.
        reduction: how much narrower both bottlenecks are.
        kernel_size: side of the convolutions.
        groups: of the convolutions; with more than one, the channels of the gate are shuffled among them.
        channel_sigmoid: squash the channel gate; without, the output of the MLP is multiplied as it is.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``, ``groups`` the bottleneck, or ``kernel_size`` is even.
    """

    def __init__(
        self,
        channels: int = 32,
        reduction: int = 4,
        kernel_size: int = 7,
        groups: int = 1,
        channel_sigmoid: bool = True,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        if reduction < 1 or channels % reduction:
            raise ValueError(f"reduction must divide channels; {reduction} does not divide {channels}")
        hidden = channels // reduction
        if groups < 1 or hidden % groups:
            raise ValueError(f"groups must divide channels // reduction; {groups} does not divide {hidden}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd; it is {kernel_size}")
        self.channels, self.groups, self.channel_sigmoid = channels, groups, channel_sigmoid
        # 1 × 1 convolutions: the same function as Linear on permuted maps, without the permutations.
        self.squeeze, self.excite = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.reduce = ConvBN(channels, hidden, kernel_size, groups=groups)
        self.expand = ConvBN(hidden, channels, kernel_size, groups=groups)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate the channels of each pixel, then again by what lies around it."""
        gate: Tensor = self.excite(torch.relu(self.squeeze(x)))
        x = x * (torch.sigmoid(gate) if self.channel_sigmoid else gate)
        return x * self._shuffled(torch.sigmoid(self.expand(torch.relu(self.reduce(x)))))

    def _shuffled(self, gate: Tensor) -> Tensor:
        if self.groups == 1:
            return gate
        h, w = gate.shape[2:]
        return gate.reshape(-1, self.groups, self.channels // self.groups, h, w).transpose(1, 2).flatten(1, 2)


MECHANISM = Spec(
    paper=Paper(
        "Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions",
        "Liu et al.",
        "arXiv 2021",
        "2112.05561",
    ),
    build=GlobalAttention,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "reduction": 4}, {"h": 6, "w": 7}),
        "readme": Preset({"channels": 256}, {"h": 14, "w": 14}),
    },
    variants={
        "grouped": Preset({"channels": 16, "groups": 4}, {"h": 6, "w": 7}),
        "linear": Preset({"channels": 16, "channel_sigmoid": False}, {"h": 6, "w": 7}),
    },
)
