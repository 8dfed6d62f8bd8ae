"""RepMixer: what a depth-wise filter adds to a normalised map, scaled and added; one depth-wise filter when deployed.

m = BN(D_k ∗ x) + BN(d_1 ∗ x) + BN(x)      b c h w    depth-wise k × k, depth-wise 1 × 1, identity
y = x + γ (m − BN(x))                      b c h w    the two norms of x are two
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class RepMixer(nn.Module):
    """FastViT's token mixer as it is trained.

    Args:
        channels: of the map.
        kernel: side of the depth-wise kernel.
        scale: what every γ starts at.

    Raises:
        ValueError: ``kernel`` is even or 1.
    """

    def __init__(self, channels: int = 16, kernel: int = 3, scale: float = 1e-5) -> None:
        positive(channels=channels)
        super().__init__()
        if kernel % 2 == 0 or kernel < 3:
            raise ValueError(f"kernel must be odd and at least 3; got {kernel}")
        self.dense = ConvBN(channels, channels, kernel, groups=channels)
        self.point = ConvBN(channels, channels, 1, groups=channels)
        self.identity = nn.BatchNorm2d(channels)
        self.norm = nn.BatchNorm2d(channels)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), scale))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add what mixing changes."""
        mixed = self.dense(x) + self.point(x) + self.identity(x)
        y: Tensor = x + self.gamma * (mixed - self.norm(x))
        return y


MECHANISM = Spec(
    paper=Paper("FastViT: A Fast Hybrid Vision Transformer", "Vasu et al.", "ICCV 2023", "2303.14189"),
    build=RepMixer,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64}, {"h": 56, "w": 56}),
    },
    variants={"wide": Preset({"channels": 8, "kernel": 7}, {"h": 9, "w": 8})},
)
