"""LeViT: convolutions first, then attention with batch norms in place of layer norms, on a map that shrinks. Logits.

q k v = BN(W x)                                            b h n d; keys are small, values ``ratio`` times as wide
x = x + BN(W hardswish(softmax(q kᵀ / sqrt(d) + bias) v))  bias by distance, see ``offset_bias``
x = x + BN(W2 hardswish(BN(W1 x)))
between stages queries are every other pixel of the map, and nothing is added
y = (W1 BN(mean x) + W2 BN(mean x)) / 2                    b classes
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms._layers.levit_attention import LeViTAttention
from attn_export.mechanisms._layers.linear_bn import LinearBN
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class Residual(nn.Module):
    """Add what a module computes to what it was given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.m = module

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Compute and add."""
        y: Tensor = self.m(x)
        return x + y


class LeViT(nn.Module):
    """A classifier of square images; the defaults are LeViT-128S.

    Args:
        size: of the image; its sixteenth is the side of the first map.
        widths: channels of the stages.
        depths: pairs of attention and MLP in the stages.
        heads: of the stages.
        key: channels of a head's queries and keys.
        classes: outputs.

    Raises:
        ValueError: ``size`` is not a multiple of 16.
    """

    def __init__(
        self,
        size: int = 224,
        widths: Sequence[int] = (128, 256, 384),
        depths: Sequence[int] = (2, 3, 4),
        heads: Sequence[int] = (4, 6, 8),
        key: int = 16,
        classes: int = 1000,
    ) -> None:
        positive(size=size, key=key, classes=classes)
        super().__init__()
        if size % 16:
            raise ValueError(f"size must be a multiple of 16; got {size}")
        narrow = [3, *(widths[0] // share for share in (8, 4, 2, 1))]
        stem: list[nn.Module] = []
        for inputs, outputs in pairwise(narrow):
            stem += [ConvBN(inputs, outputs, 3, stride=2), nn.Hardswish()]
        self.stem = nn.Sequential(*stem[:-1])
        side, blocks = size // 16, list[nn.Module]()
        for level, (width, depth, count) in enumerate(zip(widths, depths, heads, strict=True)):
            if level:
                before = widths[level - 1]
                blocks += [LeViTAttention(before, width, key, before // key, 4, side, 2), Residual(_mlp(width))]
                side = (side + 1) // 2
            for _ in range(depth):
                blocks += [Residual(LeViTAttention(width, width, key, count, 2, side)), Residual(_mlp(width))]
        self.blocks = nn.Sequential(*blocks)
        heads_ = (nn.Sequential(nn.BatchNorm1d(widths[-1]), nn.Linear(widths[-1], classes)) for _ in range(2))
        self.head, self.head_dist = heads_

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.blocks(self.stem(image).flatten(2).transpose(1, 2)).mean(1)
        return torch.div(self.head(x) + self.head_dist(x), 2)


def _mlp(channels: int) -> nn.Module:
    return nn.Sequential(LinearBN(channels, 2 * channels), nn.Hardswish(), LinearBN(2 * channels, channels))


def _in_a_row(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put timm's stages in a row: what shrinks the map first, then attention and MLP by turns."""
    found = re.compile(r"^stages\.(\d+)\.(downsample|blocks\.(\d+))\.(attn|attn_downsample|mlp)\.")
    places = {match[0]: match for name in state if (match := found.match(name))}
    ordered = sorted(places, key=lambda p: (int(places[p][1]), int(places[p][3] or -1), places[p][4]))
    numbers = {
        place: f"blocks.{n}.{'' if places[place][4] == 'attn_downsample' else 'm.'}" for n, place in enumerate(ordered)
    }
    named = {}
    for name, value in state.items():
        new = found.sub(lambda match: numbers[match[0]], name)
        new = re.sub(r"^stem\.conv(\d)\.", lambda m: f"stem.{2 * int(m[1]) - 2}.", new)
        new = re.sub(r"^(stem\.\d)\.linear\.", r"\1.conv.", new).replace(".ln1.", ".0.").replace(".ln2.", ".2.")
        new = new.replace("proj.ln.", "proj.1.").replace("q.ln.", "q.")
        named[re.sub(r"^(head(?:_dist)?)\.linear\.", r"\1.l.", new)] = value
    return named


MECHANISM = Spec(
    paper=Paper("LeViT: a Vision Transformer in ConvNet's Clothing", "Graham et al.", "ICCV 2021", "2104.01136"),
    build=LeViT,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset({"size": 32, "widths": (16, 24), "depths": (1, 1), "heads": (2, 3), "key": 8, "classes": 10}),
        "readme": Preset({"size": 224}),
        "levit_192": Preset(
            {"size": 224, "widths": (192, 288, 384), "depths": (4, 4, 4), "heads": (3, 5, 6), "key": 32}
        ),
        "levit_256": Preset(
            {"size": 224, "widths": (256, 384, 512), "depths": (4, 4, 4), "heads": (4, 6, 8), "key": 32}
        ),
    },
    convert=_in_a_row,
    checkpoint={
        r"attention_bias_idxs$": None,
        r"attention_biases$": "bias.table",
        r"^patch_embed\.(\d+)\.c\.": r"stem.\1.conv.",
        r"^patch_embed\.(\d+)\.bn\.": r"stem.\1.bn.",
        r"\bq\.1\.": "q.",
        r"\.c\.weight$": ".linear.weight",
        r"^(head(?:_dist)?)\.bn\.": r"\1.0.",
        r"^(head(?:_dist)?)\.l\.": r"\1.1.",
    },
)
