"""MobileViT: inverted bottlenecks, and on small maps a block that looks far among patches behind each. Logits.

x = BN(P ∗ silu(BN(D ∗ silu(BN(E ∗ x))))) (+ x where s = 1 and o = c)      b o h/s w/s
x = block(x)                                                               b c h w    see ``mobilevit_attention``
y = W mean(silu(BN(L ∗ x)))                                                b classes
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.initial import he_convolutions
from attn_export.mechanisms._layers.inverted_residual import InvertedResidual
from attn_export.mechanisms.attention.mobilevit_attention import MobileViTBlock
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec

#: Channels of a stage, how many inverted bottlenecks, stride, channels of the tokens and layers (0: none look far).
Rows = Sequence[tuple[int, int, int, int, int]]


class MobileViT(nn.Module):
    """A classifier (paper, section 3.2 and table 4).

    Args:
        rows: the stages.
        stem: channels of the first convolution.
        expand: how many times wider the middle of a bottleneck is.
        last: channels of the last convolution before the mean.
        patch: side of the patches.
        classes: outputs.
    """

    def __init__(
        self, rows: Rows, stem: int = 16, expand: int = 2, last: int = 320, patch: int = 2, classes: int = 1000
    ) -> None:
        positive(stem=stem, expand=expand, last=last, classes=classes)
        super().__init__()
        self.stem = _unit(3, stem, 3, 2)
        stages, channels = list[nn.Module](), stem
        for outputs, count, stride, dim, depth in rows:
            parts = list[nn.Module]()
            for place in range(count):
                parts.append(
                    InvertedResidual(
                        channels, channels * expand, outputs, 3, stride if place == 0 else 1, False, nn.SiLU
                    )
                )
                channels = outputs
            if depth:
                parts.append(MobileViTBlock(channels, dim, 3, patch, depth, qkv_bias=True))
            stages.append(nn.Sequential(*parts))
        self.stages = nn.Sequential(*stages)
        self.last = _unit(channels, last, 1, 1)
        self.head = nn.Linear(last, classes)
        he_convolutions(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        y: Tensor = self.head(self.last(self.stages(self.stem(x))).mean((2, 3)))
        return y


def _unit(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


MECHANISM = Spec(
    paper=Paper(
        "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer",
        "Mehta and Rastegari",
        "ICLR 2022",
        "2110.02178",
    ),
    build=MobileViT,
    inputs=(Input("x", ("b", 3, "h", "w")),),
    tasks=("classification", "detection", "segmentation"),
    dynamic=(Dim("b"),),
    presets={
        "test": Preset(
            {"rows": ((12, 1, 1, 0, 0), (16, 1, 2, 16, 1), (16, 1, 2, 16, 1)), "stem": 8, "last": 32, "classes": 10},
            {"h": 64, "w": 64},
        ),
        "readme": Preset(
            {
                "rows": (
                    (16, 1, 1, 0, 0),
                    (24, 3, 2, 0, 0),
                    (48, 1, 2, 64, 2),
                    (64, 1, 2, 80, 4),
                    (80, 1, 2, 96, 3),
                )
            },
            {"h": 256, "w": 256},
        ),
        "xs": Preset(
            {
                "rows": ((32, 1, 1, 0, 0), (48, 3, 2, 0, 0), (64, 1, 2, 96, 2), (80, 1, 2, 120, 4), (96, 1, 2, 144, 3)),
                "expand": 4,
                "last": 384,
            },
            {"h": 256, "w": 256},
        ),
        "s": Preset(
            {
                "rows": (
                    (32, 1, 1, 0, 0),
                    (64, 3, 2, 0, 0),
                    (96, 1, 2, 144, 2),
                    (128, 1, 2, 192, 4),
                    (160, 1, 2, 240, 3),
                ),
                "expand": 4,
                "last": 640,
            },
            {"h": 256, "w": 256},
        ),
    },
    checkpoint={
        r"^conv\.([01])\.": r"filter.\1.",
        r"^conv\.3\.": "project.0.",
        r"^conv\.4\.": "project.1.",
        r"^stem\.conv\.": "stem.0.",
        r"^stem\.bn\.": "stem.1.",
        r"^final_conv\.conv\.": "last.0.",
        r"^final_conv\.bn\.": "last.1.",
        r"^head\.fc\.": "head.",
        r"\.conv1_1x1\.conv\.": ".expand.0.",
        r"\.conv1_1x1\.bn\.": ".expand.1.",
        r"\.conv2_kxk\.conv\.": ".filter.0.",
        r"\.conv2_kxk\.bn\.": ".filter.1.",
        r"\.conv3_1x1\.conv\.": ".project.0.",
        r"\.conv3_1x1\.bn\.": ".project.1.",
        r"\.conv_kxk\.conv\.": ".local.0.",
        r"\.conv_kxk\.bn\.": ".local.1.",
        r"\.conv_1x1\.": ".widen.",
        r"\.conv_proj\.conv\.": ".narrow.0.",
        r"\.conv_proj\.bn\.": ".narrow.1.",
        r"\.conv_fusion\.conv\.": ".fuse.0.",
        r"\.conv_fusion\.bn\.": ".fuse.1.",
        r"\.transformer\.(\d+)\.": r".transformer.layers.\1.",
        r"\.attn\.qkv\.": ".qkv.",
        r"\.attn\.proj\.": ".out.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
