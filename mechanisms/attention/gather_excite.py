"""Gather-excite: squeeze-and-excitation whose squares of context need not be the whole map.

z = gather(x)                                b c ⌈h/e⌉ ⌈w/e⌉: a mean over (2e - 1) × (2e - 1), or strided depth-wise
z = W2 · relu(W1 · z)                        with ``mlp``
y = x * sigmoid(up(z))                       b c h w; up repeats each cell e × e times
"""

from math import log2

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class GatherExcite(nn.Module):
    """A gate for each channel in each square of ``extent × extent`` pixels.

    Args:
        channels: of the map.
        extent: side of the squares; 0 for the whole map.
        learned: gather by depth-wise convolutions, else by means.
        mlp: mix the channels before the gate, in a bottleneck.
        reduction: how much narrower the bottleneck is.
        size: height and width of the map, where a learned gather takes in all of it.

    Raises:
        ValueError: ``extent`` is not 0, 2, 4 or 8, ``reduction`` does not divide ``channels``, or ``size`` is missing.
    """

    def __init__(
        self,
        channels: int = 32,
        extent: int = 0,
        learned: bool = False,
        mlp: bool = False,
        reduction: int = 16,
        size: tuple[int, int] | None = None,
    ) -> None:
        positive(channels=channels, reduction=reduction)
        super().__init__()
        if extent not in (0, 2, 4, 8):
            raise ValueError(f"extent must be 2, 4 or 8, or 0 for the whole map; it is {extent}")
        if mlp and (reduction < 1 or channels % reduction):
            raise ValueError(f"reduction must divide channels; {reduction} does not divide {channels}")
        self.extent = extent
        self.gather = nn.Sequential() if learned else None
        if self.gather is not None and extent == 0:
            if size is None:
                raise ValueError("a learned gather of the whole map needs size, its height and width")
            self.gather.append(ConvBN(channels, channels, size, padding=0, groups=channels))
        elif self.gather is not None:
            for step in range(int(log2(extent))):
                self.gather.extend([nn.ReLU()] if step else [])
                self.gather.append(ConvBN(channels, channels, 3, stride=2, groups=channels))
        self.mlp = nn.Sequential()
        if mlp:
            hidden = channels // reduction
            self.mlp.extend([nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate each square."""
        gate = torch.sigmoid(self.mlp(self._gathered(x)))
        if self.extent == 0:
            return x * gate
        # NOTE: the last squares are cut off where extent does not divide the map; the paper's resizing would move the
        # borders of all squares away from the pixels that they were gathered from.
        up = F.interpolate(gate, scale_factor=self.extent, mode="nearest")
        return x * up[:, :, : x.shape[2], : x.shape[3]]

    def _gathered(self, x: Tensor) -> Tensor:
        if self.gather is not None:
            z: Tensor = self.gather(x)
            return z
        if self.extent == 0:
            return x.mean((2, 3), keepdim=True)
        return F.avg_pool2d(x, 2 * self.extent - 1, self.extent, self.extent - 1, count_include_pad=False)


MECHANISM = Spec(
    paper=Paper(
        "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks",
        "Hu et al.",
        "NeurIPS 2018",
        "1810.12348",
    ),
    build=GatherExcite,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 8, "extent": 4}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 256, "extent": 2, "learned": True, "mlp": True}, {"h": 14, "w": 14}),
    },
    variants={
        "learned": Preset({"channels": 8, "extent": 4, "learned": True}, {"h": 7, "w": 9}),
        "learned_mlp": Preset(
            {"channels": 8, "extent": 2, "learned": True, "mlp": True, "reduction": 2}, {"h": 7, "w": 9}
        ),
        "global": Preset({"channels": 8}, {"h": 7, "w": 9}),
        "global_learned": Preset(
            {"channels": 8, "learned": True, "size": (7, 9)}, {"h": 7, "w": 9}, dynamic=(Dim("b"),)
        ),
    },
)
