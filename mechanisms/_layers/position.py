"""Relative positions: one learned number a head for each offset between two places of a grid.

B[i, j] = T[(dy + h - 1) (2 w - 1) + dx + w - 1],  (dy, dx) = place(i) - place(j)      heads n n
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def offsets(height: int, width: int) -> Int[Tensor, "n n 2"]:
    """Return row and column of each place minus those of each other, places row by row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack((rows.flatten(), columns.flatten()), -1)
    return places[:, None] - places[None]


def relative_index(height: int, width: int) -> Int[Tensor, "n n"]:
    """Return for each pair of places the row of a table of all ``(2 h - 1) (2 w - 1)`` offsets.

    >>> relative_index(1, 3).tolist()
    [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    """
    pairs = offsets(height, width)
    return (pairs[..., 0] + height - 1) * (2 * width - 1) + pairs[..., 1] + width - 1


def gather_bias(table: Float[Tensor, "offsets heads"], index: Int[Tensor, "n m"]) -> Float[Tensor, "heads n m"]:
    """Spread a table over all pairs: a Gather of parameters by a constant, which exporters fold."""
    return table.T.index_select(1, index.flatten()).reshape(-1, *index.shape)


class RelativeBias(nn.Module):
    """A bias on attention logits within a grid."""

    index: Tensor

    def __init__(self, heads: int, height: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn((2 * height - 1) * (2 * width - 1), heads) * 0.02)
        self.register_buffer("index", relative_index(height, width), persistent=False)

    def forward(self) -> Float[Tensor, "heads n n"]:
        """Return the bias of every pair."""
        return gather_bias(self.table, self.index)
