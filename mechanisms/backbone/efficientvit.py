"""EfficientViT (MIT): inverted bottlenecks, and on small maps linear attention at two scales before each. Logits.

x = project(hardswish(D ∗ hardswish(E x))) (+ x at stride 1)      b o h/s w/s  inverted bottleneck
x = bottleneck(x + A(x))                                          b c h w      A: see ``relu_linear``; last two stages
y = W hardswish(LN(V mean(hardswish(BN(L x)))))                   b classes

The bottlenecks of the last two stages have a batch norm at their end alone.
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms._layers.initial import he_convolutions
from attn_export.mechanisms._layers.inverted_residual import InvertedResidual
from attn_export.mechanisms.attention.relu_linear import ReluLinearAttention
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class AttendingBlock(nn.Module):
    """Linear attention beside a shortcut, then an inverted bottleneck beside another (paper, figure 5)."""

    def __init__(self, channels: int, d_head: int, expand: int) -> None:
        super().__init__()
        self.attention = ReluLinearAttention(channels, d_head)
        self.local = InvertedResidual(channels, channels * expand, channels, gate=False, norms=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Look far, then near."""
        y: Tensor = self.local(x + self.attention(x))
        return y


class EfficientViT(nn.Module):
    """A classifier; the defaults are B0 (paper, section 3.2; the authors' table of models).

    Args:
        widths: channels of the stem and of the stages.
        depths: blocks of the stages; the attending ones come after one that halves the map.
        d_head: channels of a head.
        expand: how many times wider the middle of a bottleneck is.
        attending: how many stages attend, from the end.
        last: channels before the mean.
        hidden: channels behind it.
        classes: outputs.
    """

    def __init__(
        self,
        widths: Sequence[int] = (8, 16, 32, 64, 128),
        depths: Sequence[int] = (2, 2, 2, 2),
        d_head: int = 16,
        expand: int = 4,
        attending: int = 2,
        last: int = 1024,
        hidden: int = 1280,
        classes: int = 1000,
    ) -> None:
        positive(expand=expand, last=last, hidden=hidden, classes=classes)
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(
            ConvBN(3, first, 3, stride=2), nn.Hardswish(), InvertedResidual(first, first, first, gate=False)
        )
        stages = list[nn.Module]()
        for level, ((before, width), depth) in enumerate(zip(pairwise(widths), depths, strict=True)):
            attends = level >= len(depths) - attending
            blocks: list[nn.Module] = [
                InvertedResidual(before, before * expand, width, stride=2, gate=False, norms=not attends)
            ]
            if attends:
                blocks += [AttendingBlock(width, d_head, expand) for _ in range(depth)]
            else:
                blocks += [InvertedResidual(width, width * expand, width, gate=False) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential(ConvBN(widths[-1], last), nn.Hardswish())
        self.head = nn.Sequential(
            nn.Linear(last, hidden, bias=False), nn.LayerNorm(hidden), nn.Hardswish(), nn.Linear(hidden, classes)
        )
        he_convolutions(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        y: Tensor = self.head(self.last(self.stages(self.stem(x))).mean((2, 3)))
        return y


MECHANISM = Spec(
    paper=Paper(
        "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
        "Cai et al.",
        "ICCV 2023",
        "2205.14756",
    ),
    build=EfficientViT,
    inputs=(Input("x", ("b", 3, "h", "w")),),
    tasks=("classification", "segmentation"),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset(
            {
                "widths": (8, 8, 16),
                "depths": (2, 1),
                "d_head": 8,
                "expand": 2,
                "attending": 1,
                "last": 24,
                "hidden": 32,
                "classes": 10,
            },
            {"h": 48, "w": 40},
        ),
        "readme": Preset({}, {"h": 224, "w": 224}),
        "b1": Preset(
            {"widths": (16, 32, 64, 128, 256), "depths": (2, 3, 3, 4), "last": 1536, "hidden": 1600},
            {"h": 224, "w": 224},
        ),
    },
    checkpoint={
        r"^stem\.in_conv\.conv\.": "stem.0.conv.",
        r"^stem\.in_conv\.norm\.": "stem.0.bn.",
        r"^stem\.res0\.main\.": "stem.2.",
        r"^(stages\.\d+)\.blocks\.": r"\1.",
        r"\.local_module\.main\.": ".local.",
        r"\.context_module\.main\.qkv\.conv\.": ".attention.qkv.",
        r"\.context_module\.main\.aggreg\.": ".attention.aggregate.",
        r"\.context_module\.main\.proj\.conv\.": ".attention.project.conv.",
        r"\.context_module\.main\.proj\.norm\.": ".attention.project.bn.",
        r"\.main\.": ".",
        r"\.inverted_conv\.": ".expand.",
        r"\.depth_conv\.": ".filter.",
        r"\.point_conv\.": ".project.",
        r"(?<!attention)\.(expand|filter|project)\.conv\.": r".\1.0.",
        r"\.(expand|filter|project)\.norm\.": r".\1.1.",
        r"^head\.in_conv\.conv\.": "last.0.conv.",
        r"^head\.in_conv\.norm\.": "last.0.bn.",
        r"^head\.classifier\.([01])\.": r"head.\1.",
        r"^head\.classifier\.4\.": "head.3.",
    },
)
