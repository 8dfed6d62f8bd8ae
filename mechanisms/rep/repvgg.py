"""RepVGG: a plain stack of blocks with three branches to train, each one 3×3 convolution when deployed.

y = relu( BN(W₃ ∗ x) + BN(W₁ ∗ x) + BN(x) )      b o h/s w/s    the last branch where o = c and s = 1
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class RepVGGBlock(nn.Module):
    """One block as it is trained.

    Raises:
        ValueError: ``groups`` does not divide the channels.
    """

    def __init__(self, channels: int = 16, out_channels: int | None = None, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        out = channels if out_channels is None else out_channels
        if channels % groups or out % groups:
            raise ValueError(f"groups must divide the channels; {groups} does not divide {channels} and {out}")
        self.dense = ConvBN(channels, out, 3, stride=stride, groups=groups)
        self.pointwise = ConvBN(channels, out, 1, stride=stride, groups=groups)
        self.identity = nn.BatchNorm2d(channels) if out == channels and stride == 1 else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Sum the branches."""
        y = self.dense(x) + self.pointwise(x)
        return torch.relu(y if self.identity is None else y + self.identity(x))


class RepVGG(nn.Module):
    """The whole classifier: a stem and four stages of blocks, each starting at stride 2, mean, linear. Logits.

    Args:
        widths: channels of the stem and of the four stages (paper, table 3: A0 has a = 0.75, b = 2.5).
        depths: blocks of the four stages.
        classes: outputs.
        image_channels: inputs.
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 48, 96, 192, 1280),
        depths: Sequence[int] = (2, 4, 14, 1),
        classes: int = 1000,
        image_channels: int = 3,
    ) -> None:
        positive(classes=classes, image_channels=image_channels)
        super().__init__()
        self.stem = RepVGGBlock(image_channels, widths[0], stride=2)
        before, stages = widths[0], []
        for width, depth in zip(widths[1:], depths, strict=True):
            blocks = [RepVGGBlock(before if i == 0 else width, width, stride=2 if i == 0 else 1) for i in range(depth)]
            stages.append(nn.Sequential(*blocks))
            before = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        y: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return y


MECHANISM = Spec(
    paper=Paper("RepVGG: Making VGG-style ConvNets Great Again", "Ding et al.", "CVPR 2021", "2101.03697"),
    build=RepVGG,
    tasks=("classification", "segmentation"),
    inputs=(Input("x", ("b", 3, "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset({"widths": (8, 8, 12, 12, 16), "depths": (1, 2, 1, 1), "classes": 10}, {"h": 64, "w": 64}),
        "a0": Preset({}, {"h": 224, "w": 224}),
        "readme": Preset(
            {"channels": 512},
            {"h": 14, "w": 14},
            build=RepVGGBlock,
            inputs=(Input("x", ("b", "channels", "h", "w")),),
            dynamic=(Dim("b"), Dim("h"), Dim("w")),
        ),
        "block": Preset(
            {"channels": 64},
            {"h": 56, "w": 56},
            build=RepVGGBlock,
            inputs=(Input("x", ("b", "channels", "h", "w")),),
            dynamic=(Dim("b"), Dim("h"), Dim("w")),
        ),
    },
    variants={
        "grouped": Preset(
            {"channels": 16, "out_channels": 24, "stride": 2, "groups": 4},
            {"h": 9, "w": 11},
            build=RepVGGBlock,
            inputs=(Input("x", ("b", "channels", "h", "w")),),
            dynamic=(Dim("b"), Dim("h"), Dim("w")),
        ),
    },
    default="a0",
    checkpoint={
        # External-Attention-pytorch, then the authors' own release.
        r"^brb_3x3\.": "dense.",
        r"^brb_1x1\.": "pointwise.",
        r"^brb_identity\.": "identity.",
        r"\brbr_dense\.": "dense.",
        r"\brbr_1x1\.": "pointwise.",
        r"\brbr_identity\.": "identity.",
        r"^stage0\.": "stem.",
        r"^stage1\.": "stages.0.",
        r"^stage2\.": "stages.1.",
        r"^stage3\.": "stages.2.",
        r"^stage4\.": "stages.3.",
        r"^linear\.": "head.",
    },
)
