"""ConTNet: convolutions between transformers on patches of two sizes, as a residual network. Logits.

u = relu(BN x)                                   b c h w
v = T14(T7(u))                                   T: x = x + A(LN x);  x = x + MLP(LN x) in patches of 7 or 14 pixels
x = C ∗ v + x                                    C 3 × 3
x = C ∗ v + D(u)                                 last block of a stage: twice the channels, stride 2, D a mean and 1 × 1
y = W mean(x)                                    the last stage keeps its size, with C 1 × 1 and D 1 × 1
"""

import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.initial import he_convolutions
from attn_export.mechanisms._layers.patch_residual import ConTBlock
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class ConTNet(nn.Module):
    """A classifier of square images; the defaults are ConTNet-Ti.

    Args:
        size: of the image; its quarter is the side of the first map, which is halved from stage to stage.
        channels: of the first stage, doubled from stage to stage.
        depths: blocks of the stages.
        hidden: width of the stages' MLPs.
        heads: of the stages.
        patches: sides of the patches of a block; in the last stage both are the first.
        average: how shortcuts shrink, see ``ConTBlock``.
        classes: outputs.

    Raises:
        ValueError: the patches do not divide the maps, or ``heads`` not the channels.
    """

    def __init__(
        self,
        size: int = 224,
        channels: int = 48,
        depths: Sequence[int] = (1, 1, 1, 1),
        hidden: Sequence[int] = (196, 392, 768, 768),
        heads: Sequence[int] = (1, 2, 4, 8),
        patches: tuple[int, int] = (7, 14),
        average: bool = True,
        classes: int = 1000,
    ) -> None:
        positive(size=size, channels=channels, classes=classes)
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1))
        stages, side = list[nn.Module](), size // 4
        for level, (depth, width, count) in enumerate(zip(depths, hidden, heads, strict=True)):
            last = level == len(depths) - 1
            own = (patches[0], patches[0]) if last else patches
            if size % 4 or any(side % patch for patch in own):
                raise ValueError(f"patches must divide the maps; {own} do not divide {side} of an image of {size}")
            blocks = list[nn.Module]()
            for index in range(depth):
                out, stride = (2 * channels, 1 if last else 2) if index == depth - 1 else (channels, 1)
                blocks.append(ConTBlock(channels, out, own, width, count, stride, average))
            stages.append(nn.Sequential(*blocks))
            channels, side = 2 * channels, side // 2
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, classes)
        he_convolutions(self)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        y: Tensor = self.fc(self.stages(self.stem(image)).mean((2, 3)))
        return y


def _from_zero(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Count the stages and the two transformers of a block from 0."""
    named = {}
    for name, value in state.items():
        new = re.sub(r"^layer([1-9])\.ConTBlock", lambda m: f"stages.{int(m[1]) - 1}.", name)
        named[re.sub(r"\.ste([12])\.", lambda m: f".transformers.{int(m[1]) - 1}.", new)] = value
    return named


MECHANISM = Spec(
    paper=Paper(
        "ConTNet: Why not use convolution and transformer at the same time?", "Yan et al.", "arXiv 2021", "2104.13497"
    ),
    build=ConTNet,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 64,
                "channels": 8,
                "hidden": (16, 16, 32, 32),
                "heads": (1, 1, 2, 2),
                "patches": (2, 4),
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 224}),
        "small": Preset({"size": 224, "channels": 64, "hidden": (256, 512, 1024, 1024)}),
        "medium": Preset({"size": 224, "channels": 64, "depths": (2, 2, 2, 2), "hidden": (256, 512, 1024, 1024)}),
        "base": Preset({"size": 224, "channels": 64, "depths": (3, 4, 6, 3), "hidden": (256, 512, 1024, 1024)}),
    },
    convert=_from_zero,
    checkpoint={
        r"relative_position_index$": None,
        r"^layer0\.conv\.conv\.": "stem.0.",
        r"\.downsample\.(conv\.)+": ".shortcut.",
        r"\.out_conv\.conv\.": ".out_conv.",
        r"\.attn\.relative_position_bias_table$": ".attention.bias.table",
        r"\.attn\.qkv\.": ".attention.qkv.",
        r"\.attn\.proj\.": ".attention.out.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
