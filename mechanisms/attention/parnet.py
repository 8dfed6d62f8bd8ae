"""ParNet block: two convolutions and a gated skip side by side, then SiLU.

z = BN(x)                                                      b c h w
y = silu(BN(conv1(x)) + BN(conv3(x)) + z * sigmoid(W mean_hw(z)))    b c h w
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class ParNetBlock(nn.Module):
    """A RepVGG-like block whose skip is squeezed and excited.

    Args:
        channels: of the map.
        skip_norm: normalise the skip, as the paper has it; False is the form of External-Attention-pytorch.
    """

    def __init__(self, channels: int = 16, skip_norm: bool = True) -> None:
        positive(channels=channels)
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.conv3 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.norm = nn.BatchNorm2d(channels) if skip_norm else nn.Identity()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add the three branches."""
        z = self.norm(x)
        skip = z * torch.sigmoid(self.gate(z.mean((2, 3), keepdim=True)))
        return F.silu(self.conv1(x) + self.conv3(x) + skip)


MECHANISM = Spec(
    paper=Paper("Non-deep Networks", "Goyal et al.", "NeurIPS 2022", "2110.07641"),
    build=ParNetBlock,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512}, {"h": 7, "w": 7}),
    },
    variants={"plain_skip": Preset({"channels": 16, "skip_norm": False}, {"h": 7, "w": 9})},
    sources={
        "external-attention": Source(
            "External-Attention-pytorch, without the batch norm before the gate",
            shown_by=(r"^sse\.1\.", r"^conv1x1\.0\.", r"^conv3x3\.0\."),
            arguments={"skip_norm": False},
        ),
    },
    checkpoint={r"^sse\.1\.": "gate.", r"^conv1x1\.": "conv1.", r"^conv3x3\.": "conv3."},
)
