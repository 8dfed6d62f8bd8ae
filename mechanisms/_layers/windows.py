"""Attention within the windows of a map, plain or moved by a shift (Swin).

x = windows of roll(map)                                       b m n c, m windows of n pixels
y = softmax(Q Kᵀ / sqrt(d) + bias + mask) V                    the mask keeps apart what the roll brought together
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend
from attn_export.mechanisms._layers.position import RelativeBias


def partition(x: Float[Tensor, "b h w c"], height: int, width: int) -> Float[Tensor, "b m n c"]:
    """Cut a map into windows, row by row."""
    _, h, w, c = x.shape
    # Rows of windows join the batch, pixels of a row the channels: compilers for phones refuse six dimensions.
    tiles = x.reshape(-1, height, w // width, width * c).transpose(1, 2)
    return tiles.reshape(-1, (h // height) * (w // width), height * width, c)


def join(x: Float[Tensor, "b m n c"], height: int, width: int, columns: int) -> Float[Tensor, "b h w c"]:
    """Undo ``partition``; ``columns`` windows make up the width of the map."""
    _, m, _, c = x.shape
    tiles = x.reshape(-1, columns, height, width * c).transpose(1, 2)
    return tiles.reshape(-1, m // columns * height, columns * width, c)


def roll(x: Tensor, steps: int, axes: tuple[int, ...]) -> Tensor:
    """Move the first ``steps`` rows of each axis to its end (negative: the last to its front), by slices."""
    for axis in axes:
        first = steps if steps >= 0 else x.shape[axis] + steps
        x = torch.cat((x.narrow(axis, first, x.shape[axis] - first), x.narrow(axis, 0, first)), axis)
    return x


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with relative positions.

    Args:
        channels: of the map.
        heads: number of heads.
        window: height and width of a window, or its side.
        shift: how far windows are moved, down and right; 0 not at all.
        size: of the map; needed for the mask of a shift.
        channels_first: maps are ``b c h w`` instead of ``b h w c``.

    Raises:
        ValueError: ``heads`` does not divide ``channels``, or there is a shift that is too large or lacks ``size``.
    """

    hidden: Tensor

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int | tuple[int, int],
        shift: int = 0,
        size: tuple[int, int] | None = None,
        channels_first: bool = False,
    ) -> None:
        super().__init__()
        self.window = (window, window) if isinstance(window, int) else window
        if channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        if shift and size is None:
            raise ValueError("a shift needs size, the height and width of the map")
        if not 0 <= shift < min(self.window):
            raise ValueError(f"shift must lie within the window; {shift} is not in [0, {min(self.window)})")
        self.heads, self.shift, self.channels_first = heads, shift, channels_first
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = RelativeBias(heads, *self.window)
        self.out = nn.Linear(channels, channels)
        if shift and size:
            self.register_buffer("hidden", _strangers(size, self.window, shift), persistent=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Attend (the names of the axes are those of channels last)."""
        if self.channels_first:
            x = x.permute(0, 2, 3, 1)
        if self.shift:
            x = roll(x, self.shift, (1, 2))
        windows = partition(x, *self.window)
        q, k, v = (self._split(part) for part in self._project(windows).chunk(3, -1))
        mixed = self._mix(q, k, v, self._logit_bias())
        if self.shift:
            mixed = mixed.reshape(-1, self.heads, *q.shape[2:])
        x = join(self.out(mixed.transpose(1, 2).reshape(windows.shape)), *self.window, x.shape[2] // self.window[1])
        if self.shift:
            x = roll(x, -self.shift, (1, 2))
        return x.permute(0, 3, 1, 2) if self.channels_first else x

    def _project(self, windows: Float[Tensor, "b m n c"]) -> Float[Tensor, "b m n d"]:
        projected: Tensor = self.qkv(windows)
        return projected

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Average the values of each window by the products of queries and keys."""
        return attend(q, k, v, bias=bias)

    def _split(self, x: Float[Tensor, "b m n c"]) -> Float[Tensor, "bm g n d"]:
        heads = x.reshape(-1, x.shape[2], self.heads, x.shape[3] // self.heads).transpose(1, 2)
        # Where windows have masks of their own, window and head are one axis.
        return heads.reshape(-1, x.shape[1] * self.heads, *heads.shape[2:]) if self.shift else heads

    def _logit_bias(self) -> Tensor:
        bias: Tensor = self.bias()
        if not self.shift:
            return bias
        # Half the minimum leaves room for the logits that it is added to. Parameters and constants: exporters fold it.
        return bias.masked_fill(self.hidden, torch.finfo(bias.dtype).min / 2).flatten(0, 1)


def _strangers(size: tuple[int, int], window: tuple[int, int], shift: int) -> Tensor:
    """Pairs of one rolled window whose pixels come from different ends of the map: m 1 n n."""

    def ends(length: int, side: int) -> Tensor:
        place = torch.arange(length)
        return (place >= length - side).long() + (place >= length - shift).long()

    region = 3 * ends(size[0], window[0])[:, None] + ends(size[1], window[1])
    pixels = partition(region[None, :, :, None], *window)[0, :, :, 0]
    return (pixels[:, :, None] != pixels[:, None]).unsqueeze(1)


def merge_patches(x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b rows columns d"]:
    """Stack each square of four pixels on the channel axis: the left column down, then the right one."""
    _, h, w, c = x.shape
    return x.reshape(-1, 2, w, c).transpose(1, 2).reshape(-1, h // 2, w // 2, 4 * c)
