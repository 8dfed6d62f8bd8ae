"""Halo attention: the pixels of a block attend to the block and a rim of ``halo`` pixels around it.

q          = x Wq / sqrt(d)              b m g n d, m blocks of n = block² pixels
k, v       = x Wk, x Wv                  b m g r² d, r = block + 2 halo
logit      = q k + q (Rh[i' - i] + Rw[j' - j])           by the offset of rows and of columns
y          = softmax(logit) v Wo         b c h w; what lies outside the map is left out
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._parts.heads import attend
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


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
        across = self._along(places.permute(2, 0, 1, 3), self.rel_width).permute(1, 2, 0, 3).unsqueeze(-2)
        down = self._along(places.permute(1, 0, 2, 3), self.rel_height).permute(1, 0, 2, 3).unsqueeze(-1)
        return (down + across).reshape(*q.shape[:-1], self.window**2)

    def _along(self, q: Tensor, table: Tensor) -> Tensor:
        """Products with the offsets along the first axis of ``q``: block … d to block … window."""
        offsets = table.index_select(0, self.index.flatten()).reshape(self.block, self.window, -1)
        logits = q.flatten(1, 2) @ offsets.transpose(1, 2)
        return logits.reshape(*q.shape[:-1], self.window)


class HaloAttention(nn.Module):
    """Multi-head attention of blocks to their neighbourhoods, with relative positions shared by the heads.

    Raises:
        ValueError: a size is not positive, or ``halo`` is negative.
    """

    inside: Tensor

    def __init__(
        self, channels: int = 32, block: int = 4, halo: int = 2, heads: int = 4, head_channels: int = 8
    ) -> None:
        super().__init__()
        if min(channels, block, heads, head_channels) < 1 or halo < 0:
            raise ValueError("channels, block, heads and head_channels must be positive, halo not negative")
        self.block, self.halo, self.heads, self.width = block, halo, heads, head_channels
        self.query = nn.Linear(channels, heads * head_channels, bias=False)
        self.key_value = nn.Linear(channels, 2 * heads * head_channels, bias=False)
        self.position = RelativeLogits(block, block + 2 * halo, head_channels)
        self.project = nn.Linear(heads * head_channels, channels)
        self.register_buffer("inside", torch.zeros(1, 1, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend; ``h`` and ``w`` are multiples of ``block``."""
        x = x.permute(0, 2, 3, 1)
        rows, columns = x.shape[1] // self.block, x.shape[2] // self.block
        q = self.query(x).reshape(-1, rows, self.block, columns, self.block, self.heads, self.width)
        q = q.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, rows * columns, self.heads, self.block**2, self.width)
        q = q * self.width**-0.5
        both = self._windows(self.key_value(x), 0.0).reshape(*q.shape[:2], -1, 2, self.heads, self.width)
        k, v = (part.squeeze(3).transpose(2, 3) for part in both.chunk(2, 3))
        # Half the minimum leaves room for the logits that it is added to.
        outside = torch.finfo(x.dtype).min / 2
        hidden = self._windows(self.inside.expand(1, x.shape[1], x.shape[2], 1), outside).reshape(-1, 1, 1, k.shape[3])
        y = attend(q, k, v, scale=1.0, bias=self.position(q) + hidden)
        y = y.reshape(-1, rows, columns, self.heads, self.block, self.block, self.width).permute(0, 1, 4, 2, 5, 3, 6)
        out: Tensor = self.project(y.reshape(-1, *x.shape[1:3], self.heads * self.width))
        return out.permute(0, 3, 1, 2)

    def _windows(self, x: Tensor, outside: float) -> Tensor:
        """Return the window of each block of ``b h w c``, row by row: b rows columns r r c."""
        window = self.block + 2 * self.halo
        more = -(-2 * self.halo // self.block)  # blocks that a window reaches into beyond its first
        pad = (self.halo, more * self.block - self.halo)
        x = F.pad(x, (0, 0, *pad, *pad), value=outside)
        for axis in (1, 3):
            count = x.shape[axis] // self.block
            x = x.reshape(*x.shape[:axis], count, self.block, *x.shape[axis + 1 :])
            near = [x.narrow(axis, i, count - more) for i in range(more + 1)]
            x = torch.cat(near, axis + 1).narrow(axis + 1, 0, window)
        return x.transpose(2, 3)


MECHANISM = Spec(
    paper=Paper(
        "Scaling Local Self-Attention for Parameter Efficient Visual Backbones",
        "Vaswani et al.",
        "CVPR 2021",
        "2103.12731",
    ),
    build=HaloAttention,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", step=4, least=4), Dim("w", step=4, least=4)),
    presets={
        "test": Preset({"channels": 32, "block": 4, "halo": 2}, {"h": 8, "w": 12}),
        "readme": Preset(
            {"channels": 512, "block": 2, "halo": 1, "head_channels": 64},
            {"h": 8, "w": 8},
            dynamic=(Dim("b"), Dim("h", step=2, least=2), Dim("w", step=2, least=2)),
        ),
    },
    variants={
        "wide_halo": Preset(
            {"channels": 8, "block": 2, "halo": 3, "heads": 2, "head_channels": 4},
            {"h": 6, "w": 4},
            dynamic=(Dim("b"), Dim("h", step=2, least=2), Dim("w", step=2, least=2)),
        ),
    },
    # NOTE: the mask of External-Attention-pytorch hides the map and shows the border: its weights load, its outputs
    # are others.
    checkpoint={
        r"^to_q\.": "query.",
        r"^to_kv\.": "key_value.",
        r"^to_out\.": "project.",
        r"^rel_pos_emb\.": "position.",
    },
)
