"""MobileNetV4: universal inverted bottlenecks, found by search for all accelerators at once; convolutions only. Logits.

x = relu(BN(K ∗ x))                               b o h/s w/s  rows without ``expand``
x = bottleneck(x)                                 b o h/s w/s  see ``uib``
y = W relu(BN(H mean(x)))                         b classes
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms._layers.initial import he_convolutions
from attn_export.mechanisms.conv.uib import UniversalInvertedBottleneck
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec

#: Stages of rows: kernel at the start, in the middle, stride, expand (0: a convolution of the middle's side), outputs.
Stages = Sequence[Sequence[tuple[int, int, int, int, int]]]


class MobileNetV4(nn.Module):
    """A classifier (paper, appendix D: Conv-S).

    Args:
        stages: of blocks.
        stem: channels of the first convolution.
        hidden: channels behind the mean.
        classes: outputs.
    """

    def __init__(self, stages: Stages, stem: int = 32, hidden: int = 1280, classes: int = 1000) -> None:
        positive(stem=stem, hidden=hidden, classes=classes)
        super().__init__()
        self.stem = _rectified(ConvBN(3, stem, 3, stride=2))
        parts, channels = list[nn.Module](), stem
        for rows in stages:
            stage = list[nn.Module]()
            for start, middle, stride, expand, outputs in rows:
                stage.append(
                    UniversalInvertedBottleneck(channels, outputs, start, middle, stride, expand)
                    if expand
                    else _rectified(ConvBN(channels, outputs, middle, stride=stride))
                )
                channels = outputs
            parts.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*parts)
        self.head = ConvBN(channels, hidden)
        self.classifier = nn.Linear(hidden, classes)
        he_convolutions(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        mean = self.blocks(self.stem(x)).mean((2, 3), keepdim=True)
        y: Tensor = self.classifier(torch.relu(self.head(mean)).flatten(1))
        return y


def _rectified(unit: nn.Module) -> nn.Module:
    return nn.Sequential(unit, nn.ReLU())


MECHANISM = Spec(
    paper=Paper("MobileNetV4: Universal Models for the Mobile Ecosystem", "Qin et al.", "ECCV 2024", "2404.10518"),
    build=MobileNetV4,
    inputs=(Input("x", ("b", 3, "h", "w")),),
    tasks=("classification", "detection"),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset(
            {
                "stages": (
                    ((0, 3, 2, 0, 8), (0, 1, 1, 0, 8)),
                    ((5, 5, 2, 3, 12), (0, 3, 1, 2, 12), (3, 0, 1, 2, 12)),
                    ((0, 1, 1, 0, 24),),
                ),
                "stem": 8,
                "hidden": 32,
                "classes": 10,
            },
            {"h": 48, "w": 40},
        ),
        "readme": Preset(
            {
                "stages": (
                    ((0, 3, 2, 0, 32), (0, 1, 1, 0, 32)),
                    ((0, 3, 2, 0, 96), (0, 1, 1, 0, 64)),
                    (
                        (5, 5, 2, 3, 96),
                        (0, 3, 1, 2, 96),
                        (0, 3, 1, 2, 96),
                        (0, 3, 1, 2, 96),
                        (0, 3, 1, 2, 96),
                        (3, 0, 1, 4, 96),
                    ),
                    (
                        (3, 3, 2, 6, 128),
                        (5, 5, 1, 4, 128),
                        (0, 5, 1, 4, 128),
                        (0, 5, 1, 3, 128),
                        (0, 3, 1, 4, 128),
                        (0, 3, 1, 4, 128),
                    ),
                    ((0, 1, 1, 0, 960),),
                )
            },
            {"h": 224, "w": 224},
        ),
    },
    checkpoint={
        r"^conv_stem\.": "stem.0.conv.",
        r"^bn1\.": "stem.0.bn.",
        r"^conv_head\.": "head.conv.",
        r"^norm_head\.": "head.bn.",
        r"^(blocks\.\d+\.\d+)\.conv\.": r"\1.0.conv.",
        r"^(blocks\.\d+\.\d+)\.bn1\.": r"\1.0.bn.",
        r"\.dw_start\.": ".start.",
        r"\.pw_exp\.": ".widen.",
        r"\.dw_mid\.": ".middle.",
        r"\.pw_proj\.": ".narrow.",
    },
)
