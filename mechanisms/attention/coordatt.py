"""Coordinate attention: gate each row and each column by what lies along it.

z      = hswish(BN(W [mean_w(x); mean_h(x)]))        b c/r (h + w)
gh, gw = sigmoid(Wh z[:h]), sigmoid(Ww z[h:])        b c h 1, b c 1 w
y      = x * gh * gw                                 b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class CoordinateAttention(nn.Module):
    """A gate for rows and one for columns from a shared bottleneck of ``max(8, channels // reduction)``.

    Raises:
        ValueError: ``reduction`` is not positive.
    """

    def __init__(self, channels: int = 32, reduction: int = 32) -> None:
        positive(channels=channels)
        super().__init__()
        if reduction < 1:
            raise ValueError(f"reduction must be positive; it is {reduction}")
        hidden = max(8, channels // reduction)
        self.squeeze = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.Hardswish())
        self.rows = nn.Conv2d(hidden, channels, 1)
        self.columns = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale ``x`` by its two gates."""
        means = torch.cat((x.mean(3), x.mean(2)), 2).unsqueeze(-1)  # b c h+w 1
        z = self.squeeze(means)
        height = x.shape[2]
        rows = torch.sigmoid(self.rows(z[:, :, :height]))
        columns = torch.sigmoid(self.columns(z[:, :, height:]))
        return x * (rows * columns.transpose(2, 3))


MECHANISM = Spec(
    paper=Paper("Coordinate Attention for Efficient Mobile Network Design", "Hou et al.", "CVPR 2021", "2103.02907"),
    build=CoordinateAttention,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "reduction": 4}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 96, "reduction": 32}, {"h": 14, "w": 14}),
    },
    checkpoint={
        r"^conv1\.": "squeeze.0.",
        r"^bn1\.": "squeeze.1.",
        r"^conv_h\.": "rows.",
        r"^conv_w\.": "columns.",
    },
)
