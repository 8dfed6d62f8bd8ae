"""Residual network: stages of blocks that add what they compute to what they were given. Logits.

x = relu(x + BN(C3 ∗ relu(BN(C2 ∗ relu(BN(C1 ∗ x))))))      bottleneck: 1 × 1, 3 × 3, 1 × 1
x = relu(x + BN(C2 ∗ relu(BN(C1 ∗ x))))                     basic: 3 × 3, 3 × 3
stem 7 × 7 at stride 2, max pool, four stages of which the last three start at stride 2, mean, linear

With groups in the 3 × 3 convolution it is ResNeXt.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.initial import he_convolutions
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ResidualBlock(nn.Module):
    """Convolutions beside a shortcut.

    Args:
        inputs: channels.
        width: of the convolutions before the last.
        outputs: channels.
        stride: of the block.
        groups: of the 3 × 3 convolution of a bottleneck.
        bottleneck: three convolutions with the 3 × 3 in the middle, or two of 3 × 3.
        stride_first: whether a bottleneck strides in its first convolution, as in the paper, or in its second, as
            published weights expect.
        shortcut_norm: whether a shortcut that projects has a batch norm.
    """

    def __init__(
        self,
        inputs: int = 32,
        width: int = 8,
        outputs: int = 32,
        stride: int = 1,
        groups: int = 1,
        bottleneck: bool = True,
        stride_first: bool = False,
        shortcut_norm: bool = True,
    ) -> None:
        positive(inputs=inputs, width=width, outputs=outputs, stride=stride, groups=groups)
        super().__init__()
        if bottleneck:
            first, second = (stride, 1) if stride_first else (1, stride)
            self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, second, 1, groups=groups, bias=False)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width if bottleneck else outputs)
        self.bottleneck = bottleneck
        self.downsample = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.downsample.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            if shortcut_norm:
                self.downsample.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Compute what is added, and add it."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """A classifier; the defaults are ResNet-50.

    Args:
        depths: blocks of the four stages.
        width: channels of the stem and of the first stage's middle, doubled from stage to stage.
        bottleneck: which block.
        groups: of the 3 × 3 convolutions (ResNeXt-50: 32).
        group_width: channels of a group where the width is ``width``; all of them over the groups unless given
            (ResNeXt-50: 4).
        classes: outputs.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        bottleneck: bool = True,
        groups: int = 1,
        group_width: int | None = None,
        classes: int = 1000,
    ) -> None:
        positive(width=width, groups=groups, classes=classes)
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, stages = width, []
        for level, depth in enumerate(depths):
            outputs = (4 if bottleneck else 1) * width << level
            middle = (width if group_width is None else groups * group_width) << level
            blocks = []
            for index in range(depth):
                stride = 2 if level and not index else 1
                blocks.append(ResidualBlock(channels, middle, outputs, stride, groups, bottleneck))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels, classes)
        he_convolutions(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        y = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        y = self.layer4(self.layer3(self.layer2(self.layer1(y))))
        logits: Tensor = self.fc(y.mean((2, 3)))
        return logits


MECHANISM = Spec(
    paper=Paper("Deep Residual Learning for Image Recognition", "He et al.", "CVPR 2016", "1512.03385"),
    build=ResNet,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", 3, "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset({"depths": (1, 2, 1, 1), "width": 8, "classes": 10}, {"h": 64, "w": 64}),
        "readme": Preset({}, {"h": 224, "w": 224}),
        "resnet18": Preset({"depths": (2, 2, 2, 2), "bottleneck": False}, {"h": 224, "w": 224}),
        "resnet34": Preset({"bottleneck": False}, {"h": 224, "w": 224}),
        "resnet101": Preset({"depths": (3, 4, 23, 3)}, {"h": 224, "w": 224}),
        "resnext50": Preset({"groups": 32, "group_width": 4}, {"h": 224, "w": 224}),
    },
    variants={
        "basic": Preset({"depths": (1, 2, 1, 1), "width": 8, "bottleneck": False, "classes": 10}, {"h": 64, "w": 64}),
        "grouped": Preset(
            {"depths": (1, 1, 1, 1), "width": 8, "groups": 4, "group_width": 4, "classes": 10}, {"h": 64, "w": 64}
        ),
    },
    checkpoint={r"^downsample\.weight$": "downsample.0.weight"},
)
