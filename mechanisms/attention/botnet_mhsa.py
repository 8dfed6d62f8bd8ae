"""All-to-all attention on a map with relative positions, in place of the 3 × 3 convolution of a bottleneck.

q, k, v = W x                                                      b g n d, g heads, n = h w pixels
L[p, p'] = (q_p · k_p' + q_p · R_h[y' - y] + q_p · R_w[x' - x]) / sqrt(d)
y = softmax(L) v                                                   b c h w
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import attend
from attn_export.mechanisms._layers.relative_logits import skew
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class BottleneckAttention(nn.Module):
    """Multi-head self-attention over the pixels of a map of fixed size.

    Args:
        channels: that come in.
        size: height and width of the map.
        heads: number of heads.
        d_head: channels of a head; ``channels // heads`` unless given.
        position: ``relative`` vectors of distances, or ``absolute`` ones of rows and columns.

    Raises:
        ValueError: ``heads`` does not divide ``channels`` and ``d_head`` is not given, or ``position`` is unknown.
    """

    def __init__(
        self,
        channels: int = 32,
        size: tuple[int, int] = (14, 14),
        heads: int = 4,
        d_head: int | None = None,
        position: Literal["relative", "absolute"] = "relative",
    ) -> None:
        positive(channels=channels, heads=heads)
        super().__init__()
        if d_head is None and channels % heads:
            raise ValueError(f"heads must divide channels unless d_head is given; {heads} does not divide {channels}")
        if position not in ("relative", "absolute"):
            raise ValueError(f"position must be relative or absolute; it is {position!r}")
        self.d_head = channels // heads if d_head is None else d_head
        self.heads, self.size, self.relative = heads, size, position == "relative"
        rows, columns = (2 * size[0] - 1, 2 * size[1] - 1) if self.relative else size
        self.qkv = nn.Conv2d(channels, 3 * heads * self.d_head, 1, bias=False)
        self.rows = nn.Parameter(torch.randn(rows, self.d_head) * self.d_head**-0.5)
        self.columns = nn.Parameter(torch.randn(columns, self.d_head) * self.d_head**-0.5)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Attend."""
        pixels = self.size[0] * self.size[1]
        parts = self.qkv(x).reshape(-1, 3 * self.heads, self.d_head, pixels).chunk(3, 1)
        q, k, v = (part.transpose(2, 3) for part in parts)  # b g n d: the form that TensorRT fuses
        q = q * self.d_head**-0.5
        if self.relative:
            mixed = attend(q, k, v, scale=1.0, bias=self._distances(q))
        else:
            places = self.rows[:, None] + self.columns[None]  # h w d, constant
            mixed = attend(q, k + places.flatten(0, 1), v, scale=1.0)
        return mixed.transpose(2, 3).reshape(-1, self.heads * self.d_head, *self.size)

    def _distances(self, q: Tensor) -> Tensor:
        """Compute the two products of queries and relative positions: b g n n."""
        h, w = self.size
        maps = q.reshape(-1, h, w, self.d_head)
        along = skew((maps @ self.columns.T).flatten(0, 1)).reshape(-1, h * w, 1, w)
        down = skew((maps.transpose(1, 2) @ self.rows.T).flatten(0, 1)).reshape(-1, w, h, h).transpose(1, 2)
        return (down.reshape(-1, h * w, h, 1) + along).reshape(-1, self.heads, h * w, h * w)


MECHANISM = Spec(
    paper=Paper("Bottleneck Transformers for Visual Recognition", "Srinivas et al.", "CVPR 2021", "2101.11605"),
    build=BottleneckAttention,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"),),
    presets={
        "test": Preset({"channels": 16, "size": (4, 5)}, {"h": 4, "w": 5}),
        "readme": Preset({"channels": 512}, {"h": 14, "w": 14}),
    },
    variants={
        "absolute": Preset({"channels": 16, "size": (4, 5), "position": "absolute", "d_head": 6}, {"h": 4, "w": 5}),
    },
)
