"""MobileNetV3: inverted bottlenecks with a hard-sigmoid gate and hard-swish, searched for phones. Logits.

u = act(BN(E ∗ x))                               b e h w        1 × 1, left out where e = c
v = act(BN(D ∗ u))                               b e h/s w/s    depth-wise k × k
v = v * hardsigmoid(W2 relu(W1 mean(v)))         b e h/s w/s    where the block has a gate
y = BN(P ∗ v) (+ x where s = 1 and o = c)        b o h/s w/s
"""

import re
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.initial import he_convolutions
from attn_export.mechanisms._layers.inverted_residual import InvertedResidual
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec

#: Rows are kernel, middle, outputs, gate, hard-swish, stride (paper, tables 1 and 2).
Rows = Sequence[tuple[int, int, int, bool, bool, int]]


class MobileNetV3(nn.Module):
    """A classifier.

    Args:
        rows: the blocks.
        stem: channels of the first convolution.
        last: channels of the last convolution before the mean.
        hidden: channels behind the mean.
        classes: outputs.
    """

    def __init__(self, rows: Rows, stem: int = 16, last: int = 576, hidden: int = 1024, classes: int = 1000) -> None:
        positive(stem=stem, last=last, hidden=hidden, classes=classes)
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.Hardswish())
        blocks, channels = [], stem
        for kernel, wide, outputs, gate, swish, stride in rows:
            act = nn.Hardswish if swish else nn.ReLU
            blocks.append(InvertedResidual(channels, wide, outputs, kernel, stride, gate, act))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last), nn.Hardswish())
        self.conv_head = nn.Conv2d(last, hidden, 1)
        self.classifier = nn.Linear(hidden, classes)
        he_convolutions(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        y = self.last(self.blocks(self.stem(x))).mean((2, 3), keepdim=True)
        logits: Tensor = self.classifier(F.hardswish(self.conv_head(y)).flatten(1))
        return logits


#: Where the parts of timm's two kinds of block are: one that widens, and one that does not.
_WIDENS = {
    "conv_pw": "expand.0",
    "bn1": "expand.1",
    "conv_dw": "filter.0",
    "bn2": "filter.1",
    "conv_pwl": "project.0",
    "bn3": "project.1",
}
_DOES_NOT = {"conv_dw": "filter.0", "bn1": "filter.1", "conv_pw": "project.0", "bn2": "project.1"}


def _by_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's parts, whose places depend on the kind of block, and number the blocks through the stages."""
    widens = {name.rpartition("conv_pwl")[0] for name in state if "conv_pwl" in name}
    found = re.compile(r"(?P<block>(?:blocks\.\d+\.)?\d+\.)(?P<part>\w+)\.(?P<rest>.+)")
    pairs = {name: match for name in state if (match := found.fullmatch(name))}
    blocks = sorted(
        {one["block"] for one in pairs.values()}, key=lambda block: [int(n) for n in re.findall(r"\d+", block)]
    )
    order = {block: number for number, block in enumerate(blocks)}
    named = {}
    for name, value in state.items():
        if (one := pairs.get(name)) is None:
            named[re.sub(r"^bn1\.", "stem.1.", name.replace("conv_stem.", "stem.0."))] = value
        elif one["part"] == "conv" or f"{one['block']}conv.weight" in state:  # the last convolution is a stage there
            named[f"last.{1 if one['part'] == 'bn1' else 0}.{one['rest']}"] = value
        else:
            places = _WIDENS if one["block"] in widens else _DOES_NOT
            prefix = f"blocks.{order[one['block']]}." if one["block"].startswith("blocks.") else ""
            named[f"{prefix}{places.get(one['part'], 'gate')}.{one['rest']}"] = value
    return named


MECHANISM = Spec(
    paper=Paper("Searching for MobileNetV3", "Howard et al.", "ICCV 2019", "1905.02244"),
    build=MobileNetV3,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", 3, "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset(
            {
                "rows": (
                    (3, 8, 8, True, False, 2),
                    (3, 32, 16, False, False, 2),
                    (3, 48, 16, False, False, 1),
                    (5, 64, 16, True, True, 1),
                ),
                "stem": 8,
                "last": 48,
                "hidden": 64,
                "classes": 10,
            },
            {"h": 48, "w": 40},
        ),
        "readme": Preset(
            {
                "rows": (
                    (3, 16, 16, True, False, 2),
                    (3, 72, 24, False, False, 2),
                    (3, 88, 24, False, False, 1),
                    (5, 96, 40, True, True, 2),
                    (5, 240, 40, True, True, 1),
                    (5, 240, 40, True, True, 1),
                    (5, 120, 48, True, True, 1),
                    (5, 144, 48, True, True, 1),
                    (5, 288, 96, True, True, 2),
                    (5, 576, 96, True, True, 1),
                    (5, 576, 96, True, True, 1),
                )
            },
            {"h": 224, "w": 224},
        ),
    },
    convert=_by_part,
)
