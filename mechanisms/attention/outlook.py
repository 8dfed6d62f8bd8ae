"""Outlook attention: each position draws weights for all pairs of its k × k window from its own features alone.

v = Wv x                                 b h w c
a = softmax_j(Wa pool(x) / sqrt(d))      b h/s w/s g k² k², pool: mean of s × s pixels
o = Σ_j a[p, i, j] v[s p + j]            what window p says to its pixel i
y = Wo Σ_(s p + i = q) o[p, i]           b h w c
  = Wo Σ_d m[q, d] v[q + d],  m[q, d] = Σ_(s p + i = q) a[p, i, i + d]

The last line is what runs, (2k - 1)² weights a pixel: no k² times larger map is unfolded, multiplied or folded.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.constant import Constants
from attn_export.mechanisms._layers.local import local_sum
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class OutlookAttention(Constants):
    """Local attention with weights from a linear layer instead of a comparison of pixels.

    Args:
        channels: of the map, which has them last.
        heads: groups of channels with weights of their own.
        kernel_size: side of the window; the map is padded so that each window has its centre inside.
        stride: one window for every ``stride × stride`` pixels.
        value_bias: the values have a bias.

    Raises:
        ValueError: ``heads`` does not divide ``channels``, ``kernel_size`` is even, or ``stride`` exceeds it.
    """

    spread: Tensor

    def __init__(
        self, channels: int = 32, heads: int = 1, kernel_size: int = 3, stride: int = 1, value_bias: bool = False
    ) -> None:
        positive(channels=channels)
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd; it is {kernel_size}")
        if not 1 <= stride <= kernel_size:
            raise ValueError(f"stride must lie between 1 and kernel_size {kernel_size}; it is {stride}")
        self.heads, self.kernel_size, self.stride = heads, kernel_size, stride
        self.value = nn.Linear(channels, channels, bias=value_bias)
        self.weigh = nn.Linear(channels, heads * kernel_size**4)
        self.project = nn.Linear(channels, channels)
        self.scale = (channels // heads) ** -0.5
        self.constant("spread", _spread(kernel_size))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Mix each pixel with its neighbours."""
        height, width, channels = x.shape[1:]
        values = self._by_head(self.value(x)).reshape(-1, height, width, channels // self.heads)
        mixed = local_sum(self.mixing(x), values, 2 * self.kernel_size - 1, padding=self.kernel_size - 1)
        heads = mixed.reshape(-1, self.heads, height * width, channels // self.heads).transpose(1, 2)
        y: Tensor = self.project(heads.reshape(-1, height, width, channels))
        return y

    def attention(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b windows gk k"]:
        """Return the weights of all windows, group by group and pixel by pixel; the last axis sums to one."""
        return self._weights(self._pooled(x))

    def mixing(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "bg h w nn"]:
        """Return how much of each neighbour up to ``kernel_size - 1`` away ends in a pixel, over all windows."""
        # Each head is an item of the batch: grouped transposed convolutions are rare, and wrong in some runtimes.
        pooled = self._pooled(x)
        weights = self._weights(pooled).flatten(2).transpose(1, 2)
        weights = weights.reshape(-1, self.kernel_size**4, *pooled.shape[1:3])
        margin = self.kernel_size // 2
        summed = F.conv_transpose2d(weights, self.spread, None, self.stride, margin, output_padding=self.stride - 1)
        if self.stride > 1:  # windows reach beyond a map whose size is no multiple of the stride
            summed = summed.narrow(2, 0, x.shape[1]).narrow(3, 0, x.shape[2])
        return summed.permute(0, 2, 3, 1)

    def _pooled(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b rows columns c"]:
        if self.stride == 1:
            return x
        pooled = F.avg_pool2d(x.permute(0, 3, 1, 2), self.stride, self.stride, ceil_mode=True)
        return pooled.permute(0, 2, 3, 1)

    def _weights(self, pooled: Float[Tensor, "b rows columns c"]) -> Float[Tensor, "b windows gk k"]:
        window, places = self.kernel_size**2, pooled.shape[1] * pooled.shape[2]
        logits = self.weigh(pooled) * self.scale
        return torch.softmax(logits.reshape(-1, places, self.heads * window, window), -1)

    def _by_head(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b g hw d"]:
        # Rows and columns are one axis while heads are moved: few compilers permute five.
        return x.reshape(-1, x.shape[1] * x.shape[2], self.heads, x.shape[3] // self.heads).transpose(1, 2)


def _spread(kernel: int) -> Tensor:
    """Make the fixed kernel of ones and zeros that takes weight (i, j) of a window to pixel i, neighbour j - i."""
    reach = 2 * kernel - 1
    spread = torch.zeros(kernel**4, reach**2, kernel, kernel, dtype=torch.float64)
    for pair in range(kernel**4):
        pixel, seen = divmod(pair, kernel**2)
        (row, column), (seen_row, seen_column) = divmod(pixel, kernel), divmod(seen, kernel)
        neighbour = (seen_row - row + kernel - 1) * reach + seen_column - column + kernel - 1
        spread[pair, neighbour, row, column] = 1
    return spread


MECHANISM = Spec(
    paper=Paper("VOLO: Vision Outlooker for Visual Recognition", "Yuan et al.", "TPAMI 2022", "2106.13112"),
    build=OutlookAttention,
    tasks=("classification", "segmentation"),
    inputs=(Input("x", ("b", "h", "w", "channels")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "heads": 2}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512}, {"h": 14, "w": 14}),
    },
    variants={
        "strided": Preset(
            {"channels": 16, "heads": 2, "stride": 2},
            {"h": 7, "w": 6},
            dynamic=(Dim("b"), Dim("h", min=3), Dim("w", min=3)),  # two windows or more on each axis
        ),
        "wide": Preset({"channels": 8, "kernel_size": 5, "value_bias": True}, {"h": 7, "w": 6}),
    },
    checkpoint={r"^v(_pj)?\.": "value.", r"^attn\.": "weigh.", r"^proj\.": "project."},
)
