"""RepLKNet's block: a very large depth-wise kernel with a small one beside it, between two 1×1; one kernel deployed.

u = relu(BN(P · BN(x)))                     b e h w    e = expand · c
v = relu( BN(D_K ∗ u) + BN(D_k ∗ u) )       b e h w    depth-wise 31 × 31 and 5 × 5
y = x + BN(Q · v)                           b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class RepLKBlock(nn.Module):
    """One block as it is trained.

    Args:
        channels: of the map.
        kernel: side of the large kernel.
        small: side of the kernel beside it.
        expand: how many times wider the middle is.

    Raises:
        ValueError: a side is even, or ``small`` is not below ``kernel``.
    """

    def __init__(self, channels: int = 16, kernel: int = 31, small: int = 5, expand: int = 1) -> None:
        positive(channels=channels, small=small, expand=expand)
        super().__init__()
        if kernel % 2 == 0 or small % 2 == 0 or small >= kernel:
            raise ValueError(f"kernel and small must be odd, small below kernel; got {kernel} and {small}")
        wide = channels * expand
        self.norm = nn.BatchNorm2d(channels)
        self.widen = ConvBN(channels, wide)
        self.large = ConvBN(wide, wide, kernel, groups=wide)
        self.small = ConvBN(wide, wide, small, groups=wide)
        self.narrow = ConvBN(wide, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add what the large window sees."""
        u = torch.relu(self.widen(self.norm(x)))
        y: Tensor = x + self.narrow(torch.relu(self.large(u) + self.small(u)))
        return y


MECHANISM = Spec(
    paper=Paper("Scaling Up Your Kernels to 31x31", "Ding et al.", "CVPR 2022", "2203.06717"),
    build=RepLKBlock,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 8, "kernel": 13}, {"h": 9, "w": 10}),
        "readme": Preset({"channels": 64}, {"h": 28, "w": 28}),
    },
    variants={"expanded": Preset({"channels": 8, "kernel": 7, "small": 3, "expand": 2}, {"h": 9, "w": 8})},
)
