"""Self-attention along one axis of a map: columns or rows are independent sequences."""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads


class AxisAttention(nn.Module):
    """Multi-head attention within each column (``axis`` 2) or each row (``axis`` 3).

    Args:
        channels: of the map.
        heads: number of heads.
        d_head: channels of a head; None is ``channels // heads``.
        axis: 2 for columns, 3 for rows.
        prenorm: normalise the channels of each pixel first.

    Raises:
        ValueError: ``heads`` does not divide ``channels`` and ``d_head`` is None, or ``axis`` is neither 2 nor 3.
    """

    def __init__(
        self, channels: int, heads: int, d_head: int | None = None, axis: int = 2, prenorm: bool = False
    ) -> None:
        super().__init__()
        if d_head is None and channels % heads:
            raise ValueError(f"heads must divide channels unless d_head is given; {heads} does not divide {channels}")
        if axis not in (2, 3):
            raise ValueError(f"axis must be 2 (columns) or 3 (rows); it is {axis}")
        self.heads = heads
        hidden = heads * (d_head or channels // heads)
        self.order = (0, 3, 2, 1) if axis == 2 else (0, 2, 3, 1)
        self.back = (0, 3, 2, 1) if axis == 2 else (0, 3, 1, 2)
        self.norm = nn.LayerNorm(channels) if prenorm else nn.Identity()
        self.query = nn.Linear(channels, hidden, bias=False)
        self.key_value = nn.Linear(channels, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend."""
        lines = x.permute(self.order)  # b, lines, n, c
        tokens = self.norm(lines).flatten(0, 1)
        key, value = self.key_value(tokens).chunk(2, -1)
        q, k, v = (split_heads(part, self.heads) for part in (self.query(tokens), key, value))
        attended: Tensor = self.out(merge_heads(attend(q, k, v)))
        return attended.reshape(lines.shape).permute(self.back)
