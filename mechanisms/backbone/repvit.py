"""RepViT: a mobile convolutional network after the plan of light vision transformers; plain filters deployed. Logits.

x = block(x)                                      b c h w      see ``repvit_block``; every other one has a gate
x = block_2(block_1(x))                           b o h/2 w/2  between stages, both without a gate, the second halves
y = (W1 BN(mean x) + W2 BN(mean x)) / 2           b classes    the second head was taught by another network
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms._layers.inverted_residual import rounded
from attn_export.mechanisms.rep.repvit_block import RepViTBlock
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class RepViT(nn.Module):
    """A classifier; the defaults are M0.9 (paper, section 3.6 and its table of architectures).

    Args:
        widths: channels of the stages.
        depths: blocks of the stages, without the two that lie between them.
        expand: how many times wider the middle of the channel mixers is.
        classes: outputs.
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (2, 2, 14, 2),
        expand: int = 2,
        classes: int = 1000,
    ) -> None:
        positive(expand=expand, classes=classes)
        super().__init__()
        first, last = widths[0], widths[-1]
        self.stem = nn.Sequential(ConvBN(3, first // 2, 3, stride=2), nn.GELU(), ConvBN(first // 2, first, 3, stride=2))
        blocks, before = list[nn.Module](), first
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if level:
                blocks += [
                    RepViTBlock(before, expand=expand, gate=False),
                    RepViTBlock(before, width, 2, expand, gate=False),
                ]
            hidden = rounded(width / 4)
            for place in range(depth):
                gate = place % 2 == 0
                blocks.append(RepViTBlock(width, expand=expand, gate=gate, gate_hidden=hidden, gate_bias=True))
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.head, self.head_dist = (nn.Sequential(nn.BatchNorm1d(last), nn.Linear(last, classes)) for _ in range(2))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        x = self.blocks(self.stem(x)).mean((2, 3))
        return torch.div(self.head(x) + self.head_dist(x), 2)


def _in_a_row(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Count timm's blocks through the stages, and what halves the map among them; the authors do so, from the stem."""
    found = re.compile(r"^stages\.(\d+)\.(downsample\.pre_block|downsample|blocks\.(\d+))\.")
    kinds = {"downsample.pre_block": -2, "downsample": -1}
    places = {
        match[0]: (int(match[1]), kinds.get(match[2], int(match[3] or 0)))
        for name in state
        if (match := found.match(name))
    }
    order = {place: number for number, place in enumerate(sorted(set(places.values())))}
    new = {}
    for name, value in state.items():
        here = found.sub(lambda match: f"blocks.{order[places[match[0]]]}.", name)
        halves = f"{name.split('token_mixer.')[0]}token_mixer.2.c.weight" in state
        if halves:  # the authors' blocks at stride 2: filter, nothing, point-wise
            here = here.replace(".token_mixer.0.", ".filter.").replace(".token_mixer.2.", ".mix.")
        here = re.sub(r"^features\.0\.", "stem.", here)
        new[re.sub(r"^features\.(\d+)\.", lambda m: f"blocks.{int(m[1]) - 1}.", here)] = value
    return new


MECHANISM = Spec(
    paper=Paper("RepViT: Revisiting Mobile CNN From ViT Perspective", "Wang et al.", "CVPR 2024", "2307.09283"),
    build=RepViT,
    inputs=(Input("x", ("b", 3, "h", "w")),),
    tasks=("classification", "detection", "segmentation"),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset({"widths": (8, 16), "depths": (2, 1), "classes": 10}, {"h": 48, "w": 40}),
        "readme": Preset({}, {"h": 224, "w": 224}),
        "m1_0": Preset({"widths": (56, 112, 224, 448)}, {"h": 224, "w": 224}),
        "m1_1": Preset({"widths": (64, 128, 256, 512), "depths": (2, 2, 12, 2)}, {"h": 224, "w": 224}),
        "m1_5": Preset({"widths": (64, 128, 256, 512), "depths": (4, 4, 24, 4)}, {"h": 224, "w": 224}),
        "m2_3": Preset({"widths": (80, 160, 320, 640), "depths": (6, 6, 34, 2)}, {"h": 224, "w": 224}),
    },
    convert=_in_a_row,
    checkpoint={
        r"^classifier\.classifier\.": "head.head.",
        r"^classifier\.classifier_dist\.": "head.head_dist.",
        r"^head\.(head|head_dist)\.bn\.": r"\1.0.",
        r"^head\.(head|head_dist)\.l\.": r"\1.1.",
        r"^stem\.conv1\.": "stem.0.",
        r"^stem\.conv2\.": "stem.2.",
        r"\.spatial_downsample\.": ".filter.",
        r"\.channel_downsample\.": ".mix.",
        r"\.(channel_mixer|ffn)\.(conv1|m\.0)\.": ".widen.",
        r"\.(channel_mixer|ffn)\.(conv2|m\.2)\.": ".narrow.",
        r"\.(token_mixer\.1|se)\.(fc1|conv_reduce)\.": ".gate.squeeze.",
        r"\.(token_mixer\.1|se)\.(fc2|conv_expand)\.": ".gate.excite.",
        r"\.token_mixer(\.0)?\.conv\.": ".filter.dense.",
        r"\.token_mixer(\.0)?\.conv1\.": ".filter.point.",
        r"\.token_mixer(\.0)?\.bn\.": ".filter.norm.",
        r"\.c\.weight$": ".conv.weight",
    },
)
