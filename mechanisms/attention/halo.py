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
        hides: "outside" the map or, as halonet-pytorch, "inside": windows inside give the mean of values, others 0.

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
        self.window = block + 2 * halo
        self.more = -(-2 * halo // block)  # blocks that a window reaches into beyond its first
        self.query = nn.Linear(channels, heads * head_channels, bias=False)
        self.key_value = nn.Linear(channels, 2 * heads * head_channels, bias=False)
        self.position = RelativeLogits(block, self.window, head_channels)
        self.project = nn.Linear(heads * head_channels, channels)
        self.register_buffer("inside", torch.zeros(1, 1, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend; ``h`` and ``w`` are multiples of ``block``."""
        x = x.permute(0, 2, 3, 1)
        rows, columns = x.shape[1] // self.block, x.shape[2] // self.block
        # Blocks join the batch, and two axes change places at a time: compilers for phones take four.
        channels, pixels = self.heads * self.width, self.block**2
        q = self.query(x).reshape(-1, self.block, columns, self.block * channels).transpose(1, 2)
        q = q.reshape(-1, pixels, self.heads, self.width).transpose(1, 2) * self.width**-0.5  # m g n d
        both = self._windows(self.key_value(x), 0.0).reshape(-1, self.window**2, 2 * self.heads, self.width)
        k, v = both.transpose(1, 2).chunk(2, 1)
        # Half the minimum leaves room for the logits that it is added to.
        outside = torch.finfo(x.dtype).min / 2
        hidden = self._windows(self.inside.expand(1, *x.shape[1:3], 1), outside).reshape(1, rows * columns, 1, -1)
        if self.hides == "outside":
            y = attend(q, k, v, scale=1.0, bias=self._by_block(self._by_image(self.position(q), hidden) + hidden))
        else:  # where all is hidden the finite minimum makes the softmax uniform
            logits = self._by_image(q @ k.transpose(-2, -1) + self.position(q), hidden)
            y = torch.softmax(self._by_block(logits.masked_fill(hidden == 0, torch.finfo(x.dtype).min)), -1) @ v
        y = y.transpose(1, 2).reshape(-1, columns, self.block, self.block * channels).transpose(1, 2)
        out: Tensor = self.project(y.reshape(-1, *x.shape[1:3], channels))
        return out.permute(0, 3, 1, 2)

    def _by_image(self, logits: Float[Tensor, "bm g n r"], hidden: Float[Tensor, "1 m 1 r"]) -> Tensor:
        """Give the blocks of an image an axis of their own: what is hidden is the same in every image."""
        return logits.reshape(-1, hidden.shape[1], self.heads * self.block**2, self.window**2)

    def _by_block(self, logits: Float[Tensor, "b m gn r"]) -> Float[Tensor, "bm g n r"]:
        return logits.reshape(-1, self.heads, self.block**2, self.window**2)

    def _windows(self, x: Float[Tensor, "b h w c"], outside: float) -> Float[Tensor, "br columns r rc"]:
        """Return the window of each block, row by row."""
        pad = (self.halo, self.more * self.block - self.halo)
        x = F.pad(x, (0, 0, *pad, *pad), value=outside)
        _, height, width, c = x.shape
        rows = self._near(x.reshape(-1, height // self.block, self.block * width * c), width * c)
        columns = self._near(rows.reshape(-1, width // self.block, self.block * c), c)
        return columns.reshape(-1, self.window, columns.shape[1], self.window * c).transpose(1, 2)

    def _near(self, x: Float[Tensor, "n blocks size"], pixel: int) -> Float[Tensor, "n windows size"]:
        """Put behind each block the next ones, and keep what its window reaches of them."""
        near = [x.narrow(1, i, x.shape[1] - self.more) for i in range(self.more + 1)]
        return torch.cat(near, 2).narrow(2, 0, self.window * pixel)


MECHANISM = Spec(
    paper=Paper(
        "Scaling Local Self-Attention for Parameter Efficient Visual Backbones",
        "Vaswani et al.",
        "CVPR 2021",
        "2103.12731",
    ),
    build=HaloAttention,
    tasks=("classification", "detection"),
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
