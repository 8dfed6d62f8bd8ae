"""RepViT's block: a re-parameterised depth-wise filter and a channel gate mix the pixels, then two 1×1 the channels.

stride 1    u = gate( BN(BN(W₃ ∗ x) + w₁ x + x) )    b c h w        depth-wise 3 × 3 and 1 × 1; one filter deployed
stride 2    u = BN(P · gate( BN(W ∗ x) ))            b o h/2 w/2    depth-wise, then 1 × 1
            y = u + BN(W2 · gelu(BN(W1 · u)))        b o h/s w/s    W1 is ``expand`` times as wide
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.attention.se import SqueezeExcite
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class RepDepthwise(nn.Module):
    """Depth-wise 3×3 with norm, 1×1 without, and the identity; a norm behind their sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dense = ConvBN(channels, channels, 3, groups=channels)
        self.point = nn.Conv2d(channels, channels, 1, groups=channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Sum the branches and normalise."""
        y: Tensor = self.norm(self.dense(x) + self.point(x) + x)
        return y


class RepViTBlock(nn.Module):
    """One block as it is trained.

    Args:
        channels: inputs.
        out_channels: outputs; as many as inputs unless given.
        stride: 1, or 2 to halve the map.
        expand: how many times wider the middle of the channel mixer is.
        gate: squeeze-and-excitation in the token mixer; the paper has it in every other block.
        gate_hidden: width of the gate's hidden layer; a quarter of ``channels`` unless given. The released networks
            round it to multiples of 8.
        gate_bias: the gate's layers have biases, as in the released networks.

    Raises:
        ValueError: the channels change at stride 1, or the stride is another, or 4 does not divide ``channels`` under
            a gate.
    """

    def __init__(
        self,
        channels: int = 16,
        out_channels: int | None = None,
        stride: int = 1,
        expand: int = 2,
        gate: bool = True,
        gate_hidden: int | None = None,
        gate_bias: bool = False,
    ) -> None:
        positive(channels=channels, expand=expand)
        super().__init__()
        out = channels if out_channels is None else out_channels
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2; got {stride}")
        if stride == 1 and out != channels:
            raise ValueError(f"channels change where the map is halved only; got {channels} to {out} at stride 1")
        self.filter = (
            RepDepthwise(channels) if stride == 1 else ConvBN(channels, channels, 3, stride=2, groups=channels)
        )
        self.gate = SqueezeExcite(channels, 4, gate_hidden, gate_bias) if gate else nn.Identity()
        self.mix = nn.Identity() if stride == 1 else ConvBN(channels, out)
        self.widen = ConvBN(out, out * expand)
        self.narrow = ConvBN(out * expand, out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Mix pixels, then channels."""
        u: Tensor = self.mix(self.gate(self.filter(x)))
        y: Tensor = u + self.narrow(F.gelu(self.widen(u)))
        return y


MECHANISM = Spec(
    paper=Paper("RepViT: Revisiting Mobile CNN From ViT Perspective", "Wang et al.", "CVPR 2024", "2307.09283"),
    build=RepViTBlock,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 96}, {"h": 28, "w": 28}),
    },
    variants={
        "halving": Preset({"channels": 16, "out_channels": 24, "stride": 2}, {"h": 9, "w": 11}),
        "plain": Preset({"channels": 16, "gate": False}, {"h": 7, "w": 9}),
    },
)
