"""Spatial-shift MLP with split attention (S2-MLPv2): mix channels, shift two of three copies, weigh the three.

x1, x2, x3 = W1 x                                    b c h w each
z          = stack(shift1(x1), shift2(x2), x3)       b 3 c h w
a          = softmax_3(W3 gelu(W2 Σ z))              b 3 c, the sum over copies and pixels
y          = W4 Σ_3 a * z                            b c h w

shift1 moves the quarters of the channels one pixel down, up, right, left; shift2 right, left, down, up.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class SplitAttention(nn.Module):
    """Sum several maps with weights that each channel draws from all of them.

    Args:
        channels: of each map.
        splits: how many maps.
        axis: where the channels are: 2, or -1 for ``b splits h w c``.
    """

    def __init__(self, channels: int = 32, splits: int = 3, axis: int = 2) -> None:
        super().__init__()
        self.shape = (splits, channels, 1, 1) if axis == 2 else (splits, 1, 1, channels)
        self.pooled = (1, 3, 4) if axis == 2 else (1, 2, 3)
        self.mlp1 = nn.Linear(channels, channels, bias=False)
        self.mlp2 = nn.Linear(channels, channels * splits, bias=False)

    def forward(self, x: Float[Tensor, "b splits h w c"]) -> Float[Tensor, "b h w c"]:
        """Weigh and add the maps (the names of the axes are those of ``axis=-1``)."""
        weights = self.mlp2(F.gelu(self.mlp1(x.sum(self.pooled))))
        return (x * torch.softmax(weights.reshape(-1, *self.shape), 1)).sum(1)


class S2Attention(nn.Module):
    """Channel mixing around two opposite one-pixel shifts; the border keeps what it holds.

    Raises:
        ValueError: four does not divide ``channels``.
    """

    def __init__(self, channels: int = 32) -> None:
        positive(channels=channels)
        super().__init__()
        if channels % 4:
            raise ValueError(f"quarters of the channels are shifted; four does not divide {channels}")
        self.mlp1 = nn.Conv2d(channels, 3 * channels, 1)
        self.split = SplitAttention(channels)
        self.mlp2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix pixels with their neighbours."""
        first, second, still = self.mlp1(x).chunk(3, 1)
        down, up, right, left = first.chunk(4, 1)
        maps = [_shift(down, 2), _shift(up, 2, back=True), _shift(right, 3), _shift(left, 3, back=True)]
        right, left, down, up = second.chunk(4, 1)
        maps += [_shift(right, 3), _shift(left, 3, back=True), _shift(down, 2), _shift(up, 2, back=True)]
        stacked = torch.cat((*maps, still), 1)
        y: Tensor = self.mlp2(self.split(stacked.reshape(-1, 3, *x.shape[1:])))
        return y


def _shift(x: Tensor, axis: int, back: bool = False) -> Tensor:
    """Move by one pixel along ``axis``; the first row (moving back: the last) stays as well."""
    last = x.shape[axis] - 1
    if back:
        return torch.cat((x.narrow(axis, 1, last), x.narrow(axis, last, 1)), axis)
    return torch.cat((x.narrow(axis, 0, 1), x.narrow(axis, 0, last)), axis)


MECHANISM = Spec(
    paper=Paper("S²-MLPv2: Improved Spatial-Shift MLP Architecture for Vision", "Yu et al.", "2021", "2108.01072"),
    build=S2Attention,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32}, {"h": 7, "w": 5}),
        "readme": Preset({"channels": 512}, {"h": 7, "w": 7}),
    },
    sources={
        "external-attention": Source(
            "External-Attention-pytorch",
            shown_by=(r"^split_attention\.mlp1\.",),
            refused="it shifts a map onto itself in place, so what a pixel gets depends on the order in which memory"
            " is copied",
        ),
        "paper": Source(
            "the same names around shifts that read the map as it was",
            shown_by=(r"^split_attention\.mlp1\.",),
            only_asked=True,
        ),
    },
    checkpoint={r"^split_attention\.": "split."},
)
