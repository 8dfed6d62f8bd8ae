"""The permutator: linear layers along rows, along columns and across channels, weighted for each channel.

h, w, c = Wh x, Ww x, Wc x               b h w c each; Wh takes a segment of the channels with all rows, Ww all columns
a       = softmax_3(W2 gelu(W1 mean(h + w + c)))         b 3 c
y       = Wp (a1 * h + a2 * w + a3 * c)                  b h w c
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PermuteMLP(nn.Module):
    """Mix a map of fixed size along its three axes.

    Args:
        channels: of the map.
        segments: groups of channels; those of one group are mixed along rows and columns together.
        height: of the map; ``segments`` unless given.
        width: of the map; ``segments`` unless given.
        reduction: of the bottleneck behind the weights.

    Raises:
        ValueError: ``segments`` or ``reduction`` does not divide ``channels``, or a size is not positive.
    """

    def __init__(
        self,
        channels: int = 32,
        segments: int = 8,
        height: int | None = None,
        width: int | None = None,
        reduction: int = 4,
    ) -> None:
        super().__init__()
        if segments < 1 or channels % segments:
            raise ValueError(f"segments must divide channels; {segments} does not divide {channels}")
        if reduction < 1 or channels % reduction:
            raise ValueError(f"reduction must divide channels; {reduction} does not divide {channels}")
        self.size = (segments if height is None else height, segments if width is None else width)
        if min(self.size) < 1:
            raise ValueError(f"height and width must be positive; they are {self.size}")
        self.segments, self.part = segments, channels // segments
        self.rows = nn.Linear(self.size[0] * self.part, self.size[0] * self.part, bias=False)
        self.columns = nn.Linear(self.size[1] * self.part, self.size[1] * self.part, bias=False)
        self.channels = nn.Linear(channels, channels, bias=False)
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.weigh = nn.Linear(channels // reduction, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Mix ``x``."""
        height, width = self.size
        if x.shape[1:3] != self.size:  # reshaping would mix up the items of the batch
            raise ValueError(f"the map must be {height} × {width}; it is {x.shape[1]} × {x.shape[2]}")
        parts = x.reshape(-1, height, width, self.segments, self.part)
        rows = self.rows(parts.permute(0, 3, 2, 1, 4).flatten(3))  # b s w h*part
        rows = rows.reshape(-1, self.segments, width, height, self.part).permute(0, 3, 2, 1, 4).flatten(3)
        columns = self.columns(parts.permute(0, 3, 1, 2, 4).flatten(3))  # b s h w*part
        columns = columns.reshape(-1, self.segments, height, width, self.part).permute(0, 2, 3, 1, 4).flatten(3)
        channels = self.channels(x)
        of_rows, of_columns, of_channels = self.shares((rows + columns + channels).mean((1, 2))).chunk(3, 1)
        y: Tensor = self.project(
            rows * of_rows.unsqueeze(1) + columns * of_columns.unsqueeze(1) + channels * of_channels.unsqueeze(1)
        )
        return y

    def shares(self, means: Float[Tensor, "b c"]) -> Float[Tensor, "b 3 c"]:
        """Return the shares of rows, columns and channels; they sum to one."""
        logits = self.weigh(F.gelu(self.squeeze(means)))
        return torch.softmax(logits.reshape(-1, 3, means.shape[1]), 1)


def by_branch(weight: Float[Tensor, "..."], order: tuple[int, int, int] = (0, 1, 2)) -> Float[Tensor, "..."]:
    """Bring a last layer with three outputs a channel side by side into ours, where the branches follow each other.

    Args:
        weight: or bias of the layer, ``3 * c`` first.
        order: where rows, columns and channels stand in it.
    """
    return weight.reshape(-1, 3, *weight.shape[1:])[:, list(order)].transpose(0, 1).reshape(weight.shape)
