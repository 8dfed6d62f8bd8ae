"""MobileOne's block: over-parameterised depth-wise and point-wise stages, each one convolution when deployed.

u = relu( Σ_i BN(D_i ∗ x) + BN(d ∗ x) + BN(x) )      b c h/s w/s    depth-wise k × k, depth-wise 1 × 1, identity
y = relu( Σ_i BN(P_i · u) + BN(u) )                  b o h/s w/s    1 × 1; identity where o = c
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.channel_gate import ChannelGate
from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class Branches(nn.Module):
    """Several convolutions of one shape, a 1×1 beside them where they are larger, and the identity where it fits.

    Args:
        channels: inputs.
        out_channels: outputs.
        kernel: side of the kernels.
        stride: of all branches; only at 1 there is an identity.
        groups: of all branches.
        branches: how many convolutions of the full kernel.
        gate: squeeze-and-excitation of the sum, a sixteenth of ``out_channels`` wide: MobileOne-S4 has it.

    Raises:
        ValueError: ``branches`` is not positive, or ``kernel`` is even.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        branches: int = 1,
        gate: bool = False,
    ) -> None:
        super().__init__()
        if branches < 1 or kernel % 2 == 0:
            raise ValueError(f"branches must be positive and kernel odd; got {branches} and {kernel}")
        self.branches = nn.ModuleList(
            ConvBN(channels, out_channels, kernel, stride=stride, groups=groups) for _ in range(branches)
        )
        self.point = ConvBN(channels, out_channels, 1, stride=stride, groups=groups) if kernel > 1 else None
        self.identity = nn.BatchNorm2d(channels) if stride == 1 and channels == out_channels else None
        self.gate = ChannelGate(out_channels, max(1, out_channels // 16)) if gate else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Sum the branches."""
        y: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            y = y + branch(x)
        if self.point is not None:
            y = y + self.point(x)
        gated: Tensor = self.gate(y if self.identity is None else y + self.identity(x))
        return gated


class OverParameterised(Branches):
    """The same, rectified."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Sum the branches and rectify."""
        return torch.relu(super().forward(x))


class MobileOneBlock(nn.Module):
    """One block as it is trained.

    Args:
        channels: inputs.
        out_channels: outputs.
        kernel: side of the depth-wise kernels.
        stride: of the depth-wise stage.
        branches: over-parameterisation of both stages.
        gate: squeeze-and-excitation in both stages.
    """

    def __init__(
        self,
        channels: int = 16,
        out_channels: int = 24,
        kernel: int = 3,
        stride: int = 1,
        branches: int = 2,
        gate: bool = False,
    ) -> None:
        positive(channels=channels, out_channels=out_channels, kernel=kernel, stride=stride)
        super().__init__()
        self.depthwise = OverParameterised(
            channels, channels, kernel, stride=stride, groups=channels, branches=branches, gate=gate
        )
        self.pointwise = OverParameterised(channels, out_channels, 1, branches=branches, gate=gate)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Filter each channel, then mix them."""
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


MECHANISM = Spec(
    paper=Paper("MobileOne: An Improved One Millisecond Mobile Backbone", "Vasu et al.", "CVPR 2023", "2206.04040"),
    build=MobileOneBlock,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "out_channels": 24}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 128, "out_channels": 128, "branches": 4}, {"h": 28, "w": 28}),
    },
    variants={"strided": Preset({"channels": 8, "out_channels": 8, "kernel": 5, "stride": 2}, {"h": 9, "w": 11})},
)
