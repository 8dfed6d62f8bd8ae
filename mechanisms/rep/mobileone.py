"""MobileOne: a stack of over-parameterised depth-wise and point-wise stages, plain convolutions when deployed. Logits.

block as mobileone_block; stem 3 × 3 at stride 2, four stages that each start at stride 2, mean, linear
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.rep.mobileone_block import MobileOneBlock, OverParameterised
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class MobileOne(nn.Module):
    """The whole classifier; the defaults are S0 (paper, tables 2 and 4).

    Args:
        widths: channels of the stem and of the four stages.
        depths: blocks of the four stages.
        branches: over-parameterisation of every block.
        classes: outputs.
        gated: how many of the last blocks of each stage have a channel gate: none but in S4.
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 48, 128, 256, 1024),
        depths: Sequence[int] = (2, 8, 10, 1),
        branches: int = 4,
        classes: int = 1000,
        gated: Sequence[int] = (0, 0, 0, 0),
    ) -> None:
        positive(classes=classes)
        super().__init__()
        self.stem = OverParameterised(3, widths[0], 3, stride=2)
        before, stages = widths[0], []
        for width, depth, gates in zip(widths[1:], depths, gated, strict=True):
            stage = [
                MobileOneBlock(
                    width if i else before, width, stride=1 if i else 2, branches=branches, gate=i >= depth - gates
                )
                for i in range(depth)
            ]
            stages.append(nn.Sequential(*stage))
            before = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        y: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return y


MECHANISM = Spec(
    paper=Paper("MobileOne: An Improved One Millisecond Mobile Backbone", "Vasu et al.", "CVPR 2023", "2206.04040"),
    build=MobileOne,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", 3, "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset(
            {"widths": (8, 8, 12, 12, 16), "depths": (1, 2, 1, 1), "branches": 2, "classes": 10}, {"h": 64, "w": 64}
        ),
        "readme": Preset({}, {"h": 224, "w": 224}),
    },
    float16_unsafe="Under random weights, sums of up to six branches grow from block to block and pass 65504 in S0.",
)
