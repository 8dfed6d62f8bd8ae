"""Shuffle Transformer: attention within windows, by turns of neighbours and of pixels spread over the map. Logits.

x = x + W A(BN x)                          b c h w; windows of s × s neighbours, or of every (h / s)th row and column
x = x + D ∗ BN x                           depth-wise s × s: what connects neighbouring windows
x = x + W2 relu6(W1 BN x)
x = P ∗ BN x                               between stages: 2 × 2 at stride 2
y = W mean(x)                              b classes
"""

import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.shuffle_block import ShuffleBlock
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class ShuffleTransformer(nn.Module):
    """A classifier of square images; the defaults are Shuffle-T.

    Args:
        size: of the image; its quarter is the side of the first map, which is halved from stage to stage.
        depths: blocks of the stages, of neighbours and spread by turns.
        heads: of the stages.
        head_channels: of a head; a stage has as many channels as its heads together.
        window: side of the windows.
        mlp_ratio: width of the MLPs over the channels.
        stem: channels of the first convolution.
        spread: whether every second block's windows are spread.
        bias: of what connects windows.
        classes: outputs.

    Raises:
        ValueError: the windows do not divide the maps, or ``window`` is even.
    """

    def __init__(
        self,
        size: int = 224,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        head_channels: int = 32,
        window: int = 7,
        mlp_ratio: float = 4.0,
        stem: int = 32,
        spread: bool = True,
        bias: bool = False,
        classes: int = 1000,
    ) -> None:
        positive(size=size, head_channels=head_channels, window=window, stem=stem, classes=classes)
        super().__init__()
        before, parts = heads[0] * head_channels, list[nn.Module]()
        for inputs, outputs in ((3, stem), (stem, before)):
            parts += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU6()]
        self.stem = nn.Sequential(*parts, nn.Conv2d(before, before, 1))
        stages, side = list[nn.Module](), size // 4
        for level, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if size % (4 << level) or side % window:
                raise ValueError(f"window must divide the maps; {window} does not divide {side} of an image of {size}")
            width, own = count * head_channels, list[nn.Module]()
            if level:
                own += [nn.BatchNorm2d(before), nn.Conv2d(before, width, 2, 2, bias=False)]
            chosen = (spread and index % 2 == 1 for index in range(depth))
            own += [ShuffleBlock(width, count, window, mlp_ratio, far, bias) for far in chosen]
            stages.append(nn.Sequential(*own))
            side, before = side // 2, width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        y: Tensor = self.head(self.stages(self.stem(image)).mean((2, 3)))
        return y


def _in_a_row(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the pairs of blocks in a row behind what shrinks the map, and the first two convolutions into one stem."""

    def place(found: re.Match[str]) -> str:
        level = int(found[1]) - 1
        return f"stages.{level}.{2 * int(found[2]) + int(found[3]) + (2 if level else 0)}."

    named = {}
    for name, value in state.items():
        new = re.sub(r"^stage(\d)\.layers\.(\d+)\.([01])\.", place, name)
        new = re.sub(r"^stage(\d)\.patch_partition\.", lambda m: f"stages.{int(m[1]) - 1}.", new)
        new = re.sub(r"^to_token\.conv([12])\.(\d)\.", lambda m: f"stem.{3 * int(m[1]) - 3 + int(m[2])}.", new)
        named[new] = value.flatten(1) if ".attn." in f".{name}" and value.ndim == 4 else value
    return named


MECHANISM = Spec(
    paper=Paper(
        "Shuffle Transformer: Rethinking Spatial Shuffle for Vision Transformer",
        "Huang et al.",
        "arXiv 2021",
        "2106.03650",
    ),
    build=ShuffleTransformer,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 24,
                "depths": (2, 2),
                "heads": (1, 2),
                "head_channels": 8,
                "window": 3,
                "mlp_ratio": 2.0,
                "stem": 8,
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 224}),
        "small": Preset({"size": 224, "depths": (2, 2, 18, 2)}),
        "base": Preset({"size": 224, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)}),
    },
    convert=_in_a_row,
    checkpoint={
        r"relative_position_index$": None,
        r"^to_token\.conv3\.": "stem.6.",
        r"^(stages\.\d+)\.norm\.": r"\1.0.",
        r"^(stages\.\d+)\.reduction\.": r"\1.1.",
        r"\battn\.relative_position_bias_table$": "attention.bias.table",
        r"\battn\.to_qkv\.": "attention.qkv.",
        r"\battn\.proj\.": "attention.out.",
        r"\bmlp\.fc1\.": "mlp.0.",
        r"\bmlp\.fc2\.": "mlp.2.",
    },
)
