"""What a head adds to its logits for each distance between a query and a key on a square map (LeViT).

bias_(q k) = table[|row_q - row_k|, |column_q - column_k|]

The table has no sides: its places are numbered in the order in which the pairs of pixels meet them.
"""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn


class OffsetBias(nn.Module):
    """A learnt number for each head and distance.

    Args:
        heads: number of heads.
        side: of the keys' map.
        stride: queries are every so many rows and columns of that map.
    """

    places: Tensor

    def __init__(self, heads: int, side: int, stride: int = 1) -> None:
        super().__init__()
        keys = list(product(range(side), repeat=2))
        queries = list(product(range(0, side, stride), repeat=2))
        known: dict[tuple[int, int], int] = {}
        places = [known.setdefault((abs(q[0] - k[0]), abs(q[1] - k[1])), len(known)) for q, k in product(queries, keys)]
        self.table = nn.Parameter(torch.randn(heads, len(known)) * 0.02)
        self.register_buffer("places", torch.tensor(places).reshape(len(queries), len(keys)), persistent=False)

    def forward(self) -> Float[Tensor, "heads nq nk"]:
        """Look the distances up; parameters and constants only, which exporters fold."""
        return self.table[:, self.places]
