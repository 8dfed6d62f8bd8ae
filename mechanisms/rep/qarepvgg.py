"""QARepVGG: RepVGG's three branches with the norms placed so that the deployed convolution can be quantised.

y = relu( BN( BN(W₃ ∗ x) + W₁ ∗ x + x ) )      b o h/s w/s    the last branch where o = c and s = 1

Norms on 1 × 1 and identity would let a channel with a small variance blow up its merged weights; one behind the sum
keeps the variance of what is trained.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class QARepVGGBlock(nn.Module):
    """One block as it is trained.

    Args:
        channels: inputs.
        out_channels: outputs; as many as inputs unless given.
        stride: of all branches.
        groups: of all branches.

    Raises:
        ValueError: ``groups`` does not divide the channels.
    """

    def __init__(self, channels: int = 16, out_channels: int | None = None, stride: int = 1, groups: int = 1) -> None:
        positive(channels=channels, stride=stride, groups=groups)
        super().__init__()
        out = channels if out_channels is None else out_channels
        if channels % groups or out % groups:
            raise ValueError(f"groups must divide the channels; {groups} does not divide {channels} and {out}")
        self.dense = ConvBN(channels, out, 3, stride=stride, groups=groups)
        self.pointwise = nn.Conv2d(channels, out, 1, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.identity = out == channels and stride == 1

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Sum the branches, then normalise."""
        y = self.dense(x) + self.pointwise(x)
        return torch.relu(self.norm(y + x if self.identity else y))


MECHANISM = Spec(
    paper=Paper("Make RepVGG Greater Again: A Quantization-aware Approach", "Chu et al.", "AAAI 2024", "2212.01593"),
    build=QARepVGGBlock,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64}, {"h": 56, "w": 56}),
    },
    variants={
        "grouped": Preset({"channels": 16, "out_channels": 24, "stride": 2, "groups": 4}, {"h": 9, "w": 11}),
    },
)
