"""Swin Transformer V2: window attention by cosine, and norms behind what is added, so that it can be scaled up. Logits.

x = LN(P ∗ image)                                  b n c, n pixels of a map
x = x + LN(A(x));  x = x + LN(MLP(x))              A within windows, see ``cosine_windows``
x = LN(W [four pixels of each square])             between stages: half the rows and columns, twice the channels

The first edition (arXiv v1) has x = W LN [four pixels] and another bias; timm's ``swinv2_cr`` networks are of it.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import not_negative
from attn_export.mechanisms._layers.cosine_windows import CosineWindowAttention
from attn_export.mechanisms._layers.window_pyramid import WindowPyramid, norm_behind
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class CosineTokens(CosineWindowAttention):
    """Attention within windows that are cut already."""

    def forward(self, x: Float[Tensor, "m n c"]) -> Float[Tensor, "m n c"]:
        """Attend within each window."""
        return super().forward(x.reshape(-1, *self.window, x.shape[2])).flatten(1, 2)


class PostNormBlock(nn.Module):
    """Window attention and an MLP on the pixels of a square map, each normalised before it is added."""

    def __init__(
        self, channels: int, side: int, heads: int, window: int, shift: int, mlp_ratio: float, first: bool = False
    ) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.side = side
        self.attention = CosineWindowAttention(channels, heads, window, shift, (side, side), first=first)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.norm3: nn.Module = nn.Identity()  #: of all that comes out; the largest networks have it in some blocks
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix pixels, then channels."""
        x = x + self.norm1(self.attention(x.reshape(-1, self.side, self.side, x.shape[2])).flatten(1, 2))
        y: Tensor = self.norm3(x + self.norm2(self.mlp(x)))
        return y


class SwinV2(WindowPyramid):
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
        first: whether this is the network of the paper's first edition.
        norm_period: every so many blocks of a stage, what comes out is normalised too; 0 for never.
        norm_stages: whether what comes out of each stage is; what comes out of the last one always is.

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
        first: bool = False,
        norm_period: int = 0,
        norm_stages: bool = False,
    ) -> None:
        not_negative(norm_period=norm_period)

        def block(channels: int, side: int, heads: int, window: int, shift: int) -> PostNormBlock:
            return PostNormBlock(channels, side, heads, window, shift, mlp_ratio, first)

        super().__init__(size, patch, channels, depths, heads, window, classes, block=block, norm_last=not first)
        for level, depth in enumerate(depths):
            for index in range(1, depth + 1):
                last = index == depth
                chosen = (norm_period and not index % norm_period) or (norm_stages and last)
                if chosen and not (last and level == len(depths) - 1):  # there the norm before the classifier is it
                    self.stages[level][index - 1].norm3 = nn.LayerNorm(channels << level)  # type: ignore[index]


MECHANISM = Spec(
    paper=Paper("Swin Transformer V2: Scaling Up Capacity and Resolution", "Liu et al.", "CVPR 2022", "2111.09883"),
    build=SwinV2,
    tasks=("classification", "detection", "segmentation", "video"),
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
        "small": Preset({"size": 256, "depths": (2, 2, 18, 2)}),
        "cr_tiny": Preset({"size": 224, "window": 7, "first": True}),
        "cr_tiny_ns": Preset({"size": 224, "window": 7, "first": True, "norm_stages": True}),
    },
    variants={
        "cr": Preset(
            {
                "size": 48,
                "channels": 16,
                "depths": (2, 2),
                "heads": (2, 4),
                "window": 3,
                "mlp_ratio": 2.0,
                "classes": 10,
                "first": True,
                "norm_stages": True,
            }
        ),
    },
    convert=norm_behind,
    checkpoint={
        r"^layers\.(\d+)\.downsample\.": r"between.\1.",
        r"^layers\.(\d+)\.blocks\.": r"stages.\1.",
        r"^head\.fc\.": "head.",
        r"^patch_embed\.proj\.": "embed.",
        r"^patch_embed\.norm\.": "embed_norm.",
        r"(relative_position_index|relative_coords_table|k_bias|attn_mask)$": None,
        r"\b(cpb|meta)_mlp\.": "bias.mlp.",
        r"\battn\.": "attention.",
        r"(^|attention\.)proj\.": r"\1out.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
