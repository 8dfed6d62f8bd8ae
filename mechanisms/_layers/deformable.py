"""Deformable attention: keys and values are sampled where the queries say (DAT).

q = Wq x                                                           b c h w
o = W2 gelu(LN(conv_k(q))) a group of channels,  y' x'             b g 2 hk wk
p = r + s tanh(o) / (hk, wk),  s < 0: tanh(r + o),  s = 0: r + o   r the centres of the cells in [-1, 1]
    release 2023: p = r + s tanh(o) / (hk - 1, wk - 1),  s < 0: clip(r + o),  r = 2 (i + 1/2) / (hk - 1) - 1
k, v = Wk z, Wv z,  z = x at p (bilinear)                          b c n, n = hk wk
y = Wo softmax(q kᵀ / sqrt(d) + bias) v                            b c h w

bias: none, a table at (places of q - p) / 2 (bilinear), a number for each pair, or instead y + depth-wise conv(q).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.constant import Constants
from attn_export.mechanisms._layers.grids import centres, corners, sample
from attn_export.mechanisms._layers.heads import attend


class LayerNorm2d(nn.LayerNorm):
    """Layer norm of the channels of each pixel of a ``b c h w`` map."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DeformableAttention(Constants):
    """Attention of every pixel to points that groups of channels place.

    Args:
        channels: of the map.
        heads: number of heads.
        groups: of channels, each with its own points; a group holds whole heads.
        size: height and width of the map.
        kernel: of the depth-wise convolution that sees the queries' surroundings.
        stride: of that convolution: how much fewer points there are than pixels, along each axis.
        offset_range: how many cells a point may leave its centre; 0 is no bound, below 0 the map is the bound.
        position: "table", "pairs", "conv" or "none".
        channels_last: maps are ``b h w c`` instead of ``b c h w``.
        release: of the authors' code, "2022" or "2023", whose points lie otherwise under the same names; queries
            then lie at 2 i / (h - 1) - 1.

    Raises:
        ValueError: ``heads`` does not divide ``channels``, ``groups`` does not divide ``heads``, ``kernel`` is even,
            ``position`` is no such kind, or ``release`` no such year; or a side of one pixel under "2023".
    """

    reference: Tensor
    centres: Tensor
    reach: Tensor

    def __init__(
        self,
        channels: int,
        heads: int,
        groups: int,
        size: tuple[int, int],
        kernel: int = 5,
        stride: int = 1,
        offset_range: float = 2.0,
        position: Literal["table", "pairs", "conv", "none"] = "table",
        channels_last: bool = False,
        release: Literal["2022", "2023"] = "2022",
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        if groups < 1 or heads % groups:
            raise ValueError(f"groups must divide heads; {groups} does not divide {heads}")
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, or points have no cell; it is {kernel}")
        if position not in ("table", "pairs", "conv", "none"):
            raise ValueError(f"position must be 'table', 'pairs', 'conv' or 'none'; it is {position!r}")
        if release not in ("2022", "2023"):
            raise ValueError(f"release must be '2022' or '2023'; it is {release!r}")
        self.heads, self.groups, self.offset_range, self.channels_last = heads, groups, offset_range, channels_last
        self.later = release == "2023"
        share, (h, w), points = channels // groups, size, ((size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1)
        self.offset = nn.Sequential(
            nn.Conv2d(share, share, kernel, stride, kernel // 2, groups=share),
            LayerNorm2d(share),
            nn.GELU(),
            nn.Conv2d(share, 2, 1, bias=False),
        )
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.table = nn.Parameter(torch.randn(heads, 2 * h - 1, 2 * w - 1) * 0.01) if position == "table" else None
        self.pairs = (
            nn.Parameter(torch.randn(heads, h * w, points[0] * points[1]) * 0.01) if position == "pairs" else None
        )
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels) if position == "conv" else None
        if self.later and min(*size, *points) < 2:
            raise ValueError(f"release '2023' divides by a side less one; the map is {size}, the points are {points}")
        self.constant("centres", corners(h, w, 0.0) if self.later else centres(h, w))  # h*w 2
        self.constant("reference", corners(*points, 0.5) if self.later else centres(*points))  # n 2
        down, across = (side - self.later for side in points)
        bound = max(offset_range, 0.0)
        self.constant("reach", torch.tensor([bound / across, bound / down], dtype=torch.float64))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend (the names of the axes are those of channels first)."""
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        _, c, h, w = x.shape
        query = self.query(x)
        points = self._points(query)  # b*g n 2
        grouped = x.reshape(-1, c // self.groups, h, w)
        sampled = sample(grouped, points.unsqueeze(1)).reshape(-1, c, 1, points.shape[1])
        q, k, v = (self._split(part) for part in (query, self.key(sampled), self.value(sampled)))
        mixed = attend(q, k, v, bias=self._bias(points)).transpose(2, 3).reshape(-1, c, h, w)
        y: Tensor = self.out(mixed if self.local is None else mixed + self.local(query))
        return y.permute(0, 2, 3, 1) if self.channels_last else y

    def _points(self, query: Tensor) -> Tensor:
        _, c, h, w = query.shape
        down, across = self.offset(query.reshape(-1, c // self.groups, h, w)).flatten(2).transpose(1, 2).chunk(2, -1)
        offset = torch.cat((across, down), -1)  # x before y, as samplers read them
        if self.offset_range < 0:
            places = offset + self.reference
            return places.clamp(-1, 1) if self.later else torch.tanh(places)
        if self.offset_range > 0 or self.later:
            offset = torch.tanh(offset) * self.reach
        return offset + self.reference

    def _bias(self, points: Tensor) -> Tensor | None:
        if self.table is None:
            return self.pairs
        # A group's table is one image for all items of the batch: they lie below each other in its grid of points.
        n, pixels = points.shape[1], self.centres.shape[0]
        places = points.reshape(-1, self.groups, 1, n, 2).transpose(0, 1)
        grid = (self.centres.unsqueeze(1) - places) * 0.5  # g b h*w n 2
        table = self.table.reshape(self.groups, -1, *self.table.shape[1:])
        found = sample(table, grid.flatten(1, 2))  # g heads/g b*h*w n
        return found.reshape(self.heads, -1, pixels, n).transpose(0, 1)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.heads, x.shape[1] // self.heads, x.shape[2] * x.shape[3]).transpose(2, 3)
