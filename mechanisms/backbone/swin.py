"""Swin Transformer: window attention in four stages, moved by half a window in every other block. Logits.

x = LN(P ∗ image)                                  b n c, n pixels of a map
x = x + A(LN x);  x = x + MLP(LN x)                A within windows, see ``window``
x = W LN [four pixels of each square]              between stages: half the rows and columns, twice the channels
"""

from collections.abc import Sequence

from attn_export.mechanisms._layers.window_pyramid import WindowPyramid, merging_behind
from attn_export.mechanisms.attention.window import SwinBlock
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class Swin(WindowPyramid):
    """A classifier of square images; the defaults are Swin-T.

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
        ValueError: the map of a stage is not cut evenly into windows.
    """

    def __init__(
        self,
        size: int = 224,
        patch: int = 4,
        channels: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: float = 4.0,
        classes: int = 1000,
    ) -> None:
        def block(channels: int, side: int, heads: int, window: int, shift: int) -> SwinBlock:
            return SwinBlock(channels, (side, side), heads, window, shift, mlp_ratio)

        super().__init__(size, patch, channels, depths, heads, window, classes, block=block)


MECHANISM = Spec(
    paper=Paper(
        "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        "Liu et al.",
        "ICCV 2021",
        "2103.14030",
    ),
    build=Swin,
    tasks=("classification", "detection", "segmentation"),
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
        "readme": Preset({"size": 224}),
        "small": Preset({"size": 224, "depths": (2, 2, 18, 2)}),
        "base": Preset({"size": 224, "channels": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)}),
    },
    convert=merging_behind,
    checkpoint={
        r"^head\.fc\.": "head.",
        r"^patch_embed\.proj\.": "embed.",
        r"^patch_embed\.norm\.": "embed_norm.",
        r"^layers\.(\d+)\.downsample\.": r"between.\1.",
        r"^layers\.(\d+)\.blocks\.": r"stages.\1.",
        r"relative_position_index$": None,
        r"attn_mask$": None,
        r"\.attn\.relative_position_bias_table$": ".attention.bias.table",
        r"\.attn\.proj\.": ".attention.out.",
        r"\.attn\.": ".attention.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
