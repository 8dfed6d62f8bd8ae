"""Halo attention: the pixels of a block attend to the block and a rim of ``halo`` pixels around it.

q          = x Wq / sqrt(d)              b m g n d, m blocks of n = block² pixels
k, v       = x Wk, x Wv                  b m g r² d, r = block + 2 halo
logit      = q k + q (Rh[i' - i] + Rw[j' - j])           by the offset of rows and of columns
y          = softmax(logit) v Wo         b c h w; what lies outside the map is left out
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend
from attn_export.mechanisms._layers.window_logits import RelativeLogits
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class HaloAttention(nn.Module):
    """Multi-head attention of blocks to their neighbourhoods, with relative positions shared by the heads.

    Args:
        channels: of the map.
        block: side of a block.
        halo: width of the rim around it.
        heads: number of heads.
        head_channels: of a head.
        hides: what is left out, "outside" the map or, as halonet-pytorch has it, "inside": a window that lies inside
            gives the mean of its values, another one nothing.

    Raises:
        ValueError: a size is not positive, ``halo`` is negative, or ``hides`` is neither.
    """

    inside: Tensor

    def __init__(
        self,
        channels: int = 32,
        block: int = 4,
        halo: int = 2,
        heads: int = 4,
        head_channels: int = 8,
        hides: Literal["outside", "inside"] = "outside",
    ) -> None:
        super().__init__()
        if min(channels, block, heads, head_channels) < 1 or halo < 0:
            raise ValueError("channels, block, heads and head_channels must be positive, halo not negative")
        if hides not in ("outside", "inside"):
            raise ValueError(f"hides must be 'outside' or 'inside'; it is {hides!r}")
        self.hides = hides
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
        if self.hides == "outside":
            y = attend(q, k, v, scale=1.0, bias=self.position(q) + hidden)
        else:  # where all is hidden the finite minimum makes the softmax uniform
            logits = q @ k.transpose(-2, -1) + self.position(q)
            y = torch.softmax(logits.masked_fill(hidden == 0, torch.finfo(x.dtype).min), -1) @ v
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
    dynamic=(Dim("b"), Dim("h", step=4, min=4), Dim("w", step=4, min=4)),
    presets={
        "test": Preset({"channels": 32, "block": 4, "halo": 2}, {"h": 8, "w": 12}),
        "readme": Preset(
            {"channels": 512, "block": 2, "halo": 1, "head_channels": 64},
            {"h": 8, "w": 8},
            dynamic=(Dim("b"), Dim("h", step=2, min=2), Dim("w", step=2, min=2)),
        ),
    },
    variants={
        "wide_halo": Preset(
            {"channels": 8, "block": 2, "halo": 3, "heads": 2, "head_channels": 4},
            {"h": 6, "w": 4},
            dynamic=(Dim("b"), Dim("h", step=2, min=2), Dim("w", step=2, min=2)),
        ),
    },
    sources={
        "halonet": Source(
            "halonet-pytorch and External-Attention-pytorch, whose mask hides the map, so that queries play no part",
            shown_by=(r"^to_q\.", r"^to_kv\.", r"^rel_pos_emb\."),
            arguments={"hides": "inside"},
        ),
        "paper": Source(
            "the same names around a mask that hides what lies outside the map",
            shown_by=(r"^to_q\.", r"^to_kv\.", r"^rel_pos_emb\."),
            only_asked=True,
        ),
    },
    checkpoint={
        r"^to_q\.": "query.",
        r"^to_kv\.": "key_value.",
        r"^to_out\.": "project.",
        r"^rel_pos_emb\.": "position.",
    },
)
