"""Swin Transformer V2: window attention by cosine, and norms behind what is added, so that it can be scaled up. Logits.

x = LN(P ∗ image)                                  b n c, n pixels of a map
x = x + LN(A(x));  x = x + LN(MLP(x))              A within windows, see ``cosine_windows``
x = LN(W [four pixels of each square])             between stages: half the rows and columns, twice the channels
"""

import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.cosine_windows import CosineWindowAttention
from attn_export.mechanisms._layers.patch_merging import PatchMerging
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class CosineTokens(CosineWindowAttention):
    """Attention within windows that are cut already."""

    def forward(self, x: Float[Tensor, "m n c"]) -> Float[Tensor, "m n c"]:
        """Attend within each window."""
        return super().forward(x.reshape(-1, *self.window, x.shape[2])).flatten(1, 2)


class PostNormBlock(nn.Module):
    """Window attention and an MLP on the pixels of a square map, each normalised before it is added."""

    def __init__(self, channels: int, side: int, heads: int, window: int, shift: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.side = side
        self.attention = CosineWindowAttention(channels, heads, window, shift, (side, side))
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix pixels, then channels."""
        x = x + self.norm1(self.attention(x.reshape(-1, self.side, self.side, x.shape[2])).flatten(1, 2))
        y: Tensor = x + self.norm2(self.mlp(x))
        return y


class SwinV2(nn.Module):
    """A classifier of square images; the defaults are SwinV2-T.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the first stage, doubled from stage to stage.
        depths: blocks of the stages.
        heads: of the stages.
        window: side of the windows; a map that is no larger is one window, and nothing moves.
        mlp_ratio: width of the MLPs over the channels.
        classes: outputs.

    Raises:
        ValueError: ``patch`` does not divide ``size``, or ``heads`` not the channels.
    """

    def __init__(
        self,
        size: int = 256,
        patch: int = 4,
        channels: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 8,
        mlp_ratio: float = 4.0,
        classes: int = 1000,
    ) -> None:
        positive(size=size, patch=patch, channels=channels, window=window, classes=classes)
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size; {patch} does not divide {size}")
        self.embed, self.embed_norm = nn.Conv2d(3, channels, patch, patch), nn.LayerNorm(channels)
        side, parts = size // patch, list[nn.Module]()
        for level, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if level:
                parts.append(PatchMerging(channels, side, norm_last=True))
                side, channels = side // 2, 2 * channels
            own = min(window, side)
            moves = (own // 2 if i % 2 and own < side else 0 for i in range(depth))
            parts.append(nn.Sequential(*(PostNormBlock(channels, side, count, own, by, mlp_ratio) for by in moves)))
        self.parts = nn.Sequential(*parts)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.parts(self.embed_norm(self.embed(image).flatten(2).transpose(1, 2)))
        y: Tensor = self.head(self.norm(x).mean(1))
        return y


def _in_a_row(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put stages and mergings in a row; timm has a merging at the start of a stage, the authors at the end of one."""
    late = int(not any(name.startswith("layers.0.downsample.") for name in state))
    named = {}
    for name, value in state.items():
        new = re.sub(r"^layers\.(\d+)\.blocks\.", lambda m: f"parts.{2 * int(m[1])}.", name)
        new = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"parts.{2 * (int(m[1]) - late) + 1}.", new)
        named[new] = value
    return named


MECHANISM = Spec(
    paper=Paper("Swin Transformer V2: Scaling Up Capacity and Resolution", "Liu et al.", "CVPR 2022", "2111.09883"),
    build=SwinV2,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 48,
                "channels": 16,
                "depths": (2, 2),
                "heads": (2, 4),
                "window": 3,
                "mlp_ratio": 2.0,
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 256}),
    },
    convert=_in_a_row,
    checkpoint={
        r"^head\.fc\.": "head.",
        r"^patch_embed\.proj\.": "embed.",
        r"^patch_embed\.norm\.": "embed_norm.",
        r"(relative_position_index|relative_coords_table|k_bias|attn_mask)$": None,
        r"\bcpb_mlp\.": "bias.mlp.",
        r"\battn\.": "attention.",
        r"(^|attention\.)proj\.": r"\1out.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
