"""Attention within groups of a map's tokens, near or spread over the map, with a bias made by an MLP.

A = softmax(Q Kᵀ / sqrt(d) + P(dy, dx)) V      within groups of g × g; P has one output a head

A near group is a square of g × g neighbours; a far one takes a pixel every h / g rows and w / g columns.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms._layers.position import gather_bias, relative_index


class GroupAttention(nn.Module):
    """Attention within groups of tokens, with a bias that an MLP makes of their offset.

    Args:
        channels: of the tokens.
        size: height and width of the map that the tokens are, row by row.
        heads: number of heads.
        group: side of a group; a map that is no larger is one group.
        far: groups are spread over the map.

    Raises:
        ValueError: ``heads`` does not divide ``channels``, or ``group`` does not divide the map.
    """

    index: Tensor
    offsets: Tensor

    def __init__(self, channels: int, size: tuple[int, int], heads: int, group: int, far: bool) -> None:
        super().__init__()
        side, far = min(group, *size), far and min(size) > group
        if channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        if size[0] % side or size[1] % side:
            raise ValueError(f"group must divide the map; {side} does not divide {size[0]} x {size[1]}")
        self.heads = heads
        self.side, self.size, self.far = side, size, far
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        width = max(1, channels // 16)
        layers: list[nn.Module] = [nn.Linear(2, width)]
        for outputs in (width, width, heads):
            layers += [nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, outputs)]
        self.position = nn.Sequential(*layers)
        axis = torch.arange(1.0 - side, side)
        self.register_buffer("offsets", torch.cartesian_prod(axis, axis), persistent=False)
        self.register_buffer("index", relative_index(side, side), persistent=False)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend."""
        groups = self._grouped(x)
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(groups).chunk(3, -1))
        # Of parameters and constants only, so exporters fold it: no MLP and no Gather are left in the graph.
        bias = gather_bias(self.position(self.offsets), self.index)
        mixed: Tensor = self.out(merge_heads(attend(q, k, v, bias=bias)))
        return self._placed(mixed).reshape(-1, *x.shape[1:])

    def _grouped(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "bm gg c"]:
        """Bring the pixels of each group together; two axes change places at a time, as few compilers take six."""
        side, (h, w), c = self.side, self.size, x.shape[2]
        if not self.far:
            tiles = x.reshape(-1, side, w // side, side * c).transpose(1, 2)
        else:
            rows = x.reshape(-1, side, h // side, w * c).transpose(1, 2)
            tiles = rows.reshape(-1, side * side, w // side, c).transpose(1, 2)
        return tiles.reshape(-1, side * side, c)

    def _placed(self, x: Float[Tensor, "bm gg c"]) -> Tensor:
        """Undo ``_grouped``."""
        side, (h, w), c = self.side, self.size, x.shape[2]
        if not self.far:
            return x.reshape(-1, w // side, side, side * c).transpose(1, 2)
        rows = x.reshape(-1, w // side, side * side, c).transpose(1, 2)
        return rows.reshape(-1, h // side, side, w * c).transpose(1, 2)
