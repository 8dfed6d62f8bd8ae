"""Swin Transformer: window attention in four stages, moved by half a window in every other block. Logits.

x = LN(P ∗ image)                                  b n c, n pixels of a map
x = x + A(LN x);  x = x + MLP(LN x)                A within windows, see ``window``
x = W LN [four pixels of each square]              between stages: half the rows and columns, twice the channels
"""

import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.patch_merging import PatchMerging
from attn_export.mechanisms.attention.window import SwinBlock
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class Swin(nn.Module):
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
        positive(size=size, patch=patch, channels=channels, window=window, classes=classes)
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size; {patch} does not divide {size}")
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.embed_norm = nn.LayerNorm(channels)
        side, stages, between = size // patch, [], []
        for level, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if level:
                between.append(PatchMerging(channels, side))
                side, channels = side // 2, 2 * channels
            own = min(window, side)
            blocks = (
                SwinBlock(channels, (side, side), count, own, own // 2 if i % 2 and own < side else 0, mlp_ratio)
                for i in range(depth)
            )
            stages.append(nn.Sequential(*blocks))
        self.stages, self.between = nn.ModuleList(stages), nn.ModuleList(between)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.embed_norm(self.embed(image).flatten(2).transpose(1, 2))
        x = self.stages[0](x)
        for merge, stage in zip(self.between, self.stages[1:], strict=True):
            x = stage(merge(x))
        y: Tensor = self.head(self.norm(x).mean(1))
        return y


def _behind(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put each merging behind the stage before it, where timm has it at the start of the next."""
    pattern = re.compile(r"^layers\.(\d+)\.downsample\.")
    if any(name.startswith("layers.0.downsample.") for name in state):
        return state
    return {pattern.sub(lambda m: f"layers.{int(m[1]) - 1}.downsample.", name): value for name, value in state.items()}


MECHANISM = Spec(
    paper=Paper(
        "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        "Liu et al.",
        "ICCV 2021",
        "2103.14030",
    ),
    build=Swin,
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
    convert=_behind,
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
