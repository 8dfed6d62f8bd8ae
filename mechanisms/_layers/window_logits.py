"""Logits of relative positions between the pixels of a block and those of the window around it.

L[i, j] = q_i (Rh[i' - j'] + Rw[i - j])      block² window², by the offset of rows and of columns
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RelativeLogits(nn.Module):
    """What the queries of a block make of the offsets to the pixels of its window.

    Args:
        block: side of the block.
        window: side of the window, which starts with the block's rim.
        channels: of one head.
    """

    index: Tensor

    def __init__(self, block: int = 4, window: int = 8, channels: int = 8) -> None:
        super().__init__()
        self.block, self.window = block, window
        self.rel_height = nn.Parameter(torch.randn(2 * window - 1, channels) * channels**-0.5)
        self.rel_width = nn.Parameter(torch.randn(2 * window - 1, channels) * channels**-0.5)
        offset = torch.arange(window) - torch.arange(block)[:, None] + window - 1
        self.register_buffer("index", offset, persistent=False)

    def forward(self, q: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n r2"]:
        """Return the logits of scaled queries, pixels row by row."""
        places = q.reshape(-1, self.block, self.block, q.shape[-1])
        across = self._along(places.permute(2, 0, 1, 3), self.rel_width).permute(1, 2, 0, 3)
        down = self._along(places.permute(1, 0, 2, 3), self.rel_height).permute(1, 0, 2, 3)
        pixels = self.block**2
        both = down.reshape(-1, pixels, self.window, 1) + across.reshape(-1, pixels, 1, self.window)
        return both.reshape(*q.shape[:-1], self.window**2)

    def _along(self, q: Tensor, table: Tensor) -> Tensor:
        """Products with the offsets along the first axis of ``q``: block … d to block … window."""
        offsets = table.index_select(0, self.index.flatten()).reshape(self.block, self.window, -1)
        logits = q.flatten(1, 2) @ offsets.transpose(1, 2)
        return logits.reshape(*q.shape[:-1], self.window)
