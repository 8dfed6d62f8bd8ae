"""Overlapped attention: windows attend to larger windows that overlap, and give what they saw to their pixels.

q = Wq r,  k, v = Wkv r',  r = W1 x               b n c, n windows; r' reaches one pixel further
x = x + up(Wo softmax(q kᵀ / sqrt(d) + B) v)      one vector a window, given to its pixels
x = LN(x);  x = x + conv_3(x)                     b h w c
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms._layers.position import RelativeBias


class OverlappedAttention(nn.Module):
    """Multi-resolution overlapped attention: every window sees all windows, each with a rim of one pixel.

    Args:
        channels: of the map.
        heads: number of heads.
        window: side of a window.
        size: height and width of the map.
        reduction: how much fewer channels the windows are flattened with.

    Raises:
        ValueError: ``heads`` does not divide ``channels``, or ``window`` the map.
    """

    def __init__(self, channels: int, heads: int, window: int, size: tuple[int, int], reduction: int = 32) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        if size[0] % window or size[1] % window:
            raise ValueError(f"window must divide the map; {window} does not divide {size[0]} x {size[1]}")
        hidden = max(1, channels // reduction)
        self.heads, self.window, self.grid = heads, window, (size[0] // window, size[1] // window)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        # A Linear layer on flattened windows is a convolution with their size and stride.
        self.query = nn.Conv2d(hidden, channels, window, window)
        self.key_value = nn.Conv2d(hidden, 2 * channels, window + 2, window, 1)
        self.bias = RelativeBias(heads, *self.grid)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Add to each pixel what its window has seen."""
        _, h, w, c = x.shape
        reduced = self.reduce(x.permute(0, 3, 1, 2))
        parts = (self.query(reduced), *self.key_value(reduced).chunk(2, 1))
        q, k, v = (split_heads(part.flatten(2).transpose(1, 2), self.heads) for part in parts)
        seen: Tensor = self.out(merge_heads(attend(q, k, v, bias=self.bias())))
        columns = self.grid[1]
        # The pixels of a window's row are channels, and rows of windows the batch: four axes, not six.
        tiles = x.reshape(-1, self.window, columns, self.window * c)
        given = torch.cat([seen.reshape(-1, 1, columns, c)] * self.window, 3)
        return (tiles + given).reshape(-1, h, w, c)


class GlobalBlock(nn.Module):
    """Overlapped attention, then a convolution, with their norms."""

    def __init__(self, channels: int, heads: int, window: int, size: tuple[int, int], reduction: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = OverlappedAttention(channels, heads, window, size, reduction)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Bring in the other windows, then smooth over their borders."""
        x = self.norm2(x + self.attention(self.norm1(x)))
        y: Tensor = x + self.convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return y
