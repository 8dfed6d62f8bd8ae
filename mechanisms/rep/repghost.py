"""RepGhost bottleneck: cheap features are added, not appended, so that each pair of branches is one filter deployed.

ghost(x) = BN(d ∗ u) + BN(u), u = BN(P · x)                        P: 1 × 1, d: depth-wise k × k; ghost₁: u = relu(…)
y = ghost₂( gate( BN(D_s ∗ relu(ghost₁(x))) ) ) + shortcut(x)      b o h/s w/s    D_s at stride s > 1 only

shortcut: the identity where shapes allow it, else depth-wise at stride s and 1 × 1, each with batch norm.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms._layers.ghost_bottleneck import GhostBottleneck
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class RepGhostModule(nn.Module):
    """A 1×1, and a depth-wise filter of its output added to it.

    Args:
        channels: inputs.
        out_channels: outputs.
        kernel: side of the depth-wise kernel.
        activation: ReLUs behind the 1×1 and the sum; the second module of a bottleneck has none.
    """

    def __init__(self, channels: int = 16, out_channels: int = 16, kernel: int = 3, activation: bool = True) -> None:
        super().__init__()
        self.primary = ConvBN(channels, out_channels)
        self.cheap = ConvBN(out_channels, out_channels, kernel, groups=out_channels)
        self.identity = nn.BatchNorm2d(out_channels)
        self.activation = activation

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Mix channels, then add what the filter sees."""
        u: Tensor = torch.relu(self.primary(x)) if self.activation else self.primary(x)
        y: Tensor = self.cheap(u) + self.identity(u)
        return torch.relu(y) if self.activation else y


class RepGhostBottleneck(GhostBottleneck):
    """One bottleneck as it is trained.

    Args:
        channels: inputs.
        middle: channels between the two ghost modules.
        out_channels: outputs; as many as inputs unless given.
        kernel: side of the kernel that strides, and of the shortcut's.
        stride: 1, or more to shrink the map.
        squeeze: share of ``middle`` that the gate's hidden layer has; 0 for no gate.
        gate_hidden: its width where it is no such share; the released networks round it to multiples of 4.

    Raises:
        ValueError: ``kernel`` is even, or ``squeeze`` is negative.
    """

    def __init__(
        self,
        channels: int = 16,
        middle: int = 8,
        out_channels: int | None = None,
        kernel: int = 3,
        stride: int = 1,
        squeeze: float = 0.0,
        gate_hidden: int | None = None,
    ) -> None:
        positive(channels=channels, middle=middle, kernel=kernel, stride=stride)
        out = channels if out_channels is None else out_channels
        super().__init__(
            RepGhostModule(channels, middle),
            RepGhostModule(middle, out, activation=False),
            channels,
            (kernel, middle, out, squeeze, stride),
            max(1, int(middle * squeeze)) if gate_hidden is None else gate_hidden,
        )


MECHANISM = Spec(
    paper=Paper(
        "RepGhost: A Hardware-Efficient Ghost Module via Re-parameterization", "Chen et al.", "2022", "2211.06088"
    ),
    build=RepGhostBottleneck,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "middle": 8}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 80, "middle": 100}, {"h": 14, "w": 14}),
    },
    variants={
        "strided": Preset(
            {"channels": 8, "middle": 12, "out_channels": 16, "kernel": 5, "stride": 2, "squeeze": 0.25},
            {"h": 9, "w": 11},
        ),
        "module": Preset({"channels": 8, "out_channels": 12}, {"h": 7, "w": 9}, build=RepGhostModule),
    },
)
