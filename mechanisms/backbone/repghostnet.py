"""RepGhostNet: a mobile network of RepGhost bottlenecks, whose cheap features are added so that branches merge. Logits.

x = bottleneck(x)                                 b o h/s w/s  see ``repghost``
y = W relu(H mean(relu(BN(L x))))                 b classes
"""

from collections.abc import Sequence

from attn_export.mechanisms._layers.ghost_bottleneck import GhostClassifier, Row
from attn_export.mechanisms._layers.inverted_residual import rounded
from attn_export.mechanisms.rep.repghost import RepGhostBottleneck
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class RepGhostNet(GhostClassifier):
    """A classifier (paper, table 3).

    Args:
        stages: rows of kernel, channels in the middle, outputs, share of the gate, stride.
        stem: channels of the first convolution.
        last: channels of the last convolution before the mean.
        hidden: channels behind the mean.
        classes: outputs.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Row]],
        stem: int = 16,
        last: int = 960,
        hidden: int = 1280,
        classes: int = 1000,
    ) -> None:
        super().__init__(stages, _bottleneck, stem, last, hidden, classes)


def _bottleneck(channels: int, row: Row, _: int) -> RepGhostBottleneck:
    kernel, middle, outputs, share, stride = row
    return RepGhostBottleneck(channels, middle, outputs, kernel, stride, share, rounded(middle * share, 4))


MECHANISM = Spec(
    paper=Paper(
        "RepGhost: A Hardware-Efficient Ghost Module via Re-parameterization", "Chen et al.", "2022", "2211.06088"
    ),
    build=RepGhostNet,
    inputs=(Input("x", ("b", 3, "h", "w")),),
    tasks=("classification", "detection"),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset(
            {
                "stages": (((3, 4, 8, 0, 1),), ((3, 12, 12, 0, 2),), ((5, 24, 16, 0.25, 2), (5, 24, 16, 0.25, 1))),
                "stem": 8,
                "last": 24,
                "hidden": 32,
                "classes": 10,
            },
            {"h": 48, "w": 40},
        ),
        "readme": Preset(
            {
                "stages": (
                    ((3, 8, 16, 0, 1),),
                    ((3, 24, 24, 0, 2),),
                    ((3, 36, 24, 0, 1),),
                    ((5, 36, 40, 0.25, 2),),
                    ((5, 60, 40, 0.25, 1),),
                    ((3, 120, 80, 0, 2),),
                    (
                        (3, 100, 80, 0, 1),
                        (3, 120, 80, 0, 1),
                        (3, 120, 80, 0, 1),
                        (3, 240, 112, 0.25, 1),
                        (3, 336, 112, 0.25, 1),
                    ),
                    ((5, 336, 160, 0.25, 2),),
                    ((5, 480, 160, 0, 1), (5, 480, 160, 0.25, 1), (5, 480, 160, 0, 1), (5, 480, 160, 0.25, 1)),
                )
            },
            {"h": 224, "w": 224},
        ),
    },
    checkpoint={
        r"^conv_stem\.": "stem.0.conv.",
        r"^bn1\.": "stem.0.bn.",
        r"^blocks\.\d+\.0\.conv\.": "last.0.conv.",
        r"^blocks\.\d+\.0\.bn1\.": "last.0.bn.",
        r"\.ghost1\.": ".first.",
        r"\.ghost2\.": ".second.",
        r"\.primary_conv\.0\.": ".primary.conv.",
        r"\.primary_conv\.1\.": ".primary.bn.",
        r"\.cheap_operation\.0\.": ".cheap.conv.",
        r"\.cheap_operation\.1\.": ".cheap.bn.",
        r"\.fusion_bn\.0\.": ".identity.",
        r"\.conv_dw\.": ".shrink.conv.",
        r"\.bn_dw\.": ".shrink.bn.",
        r"\.se\.": ".gate.",
        r"\.shortcut\.0\.weight": ".shortcut.0.conv.weight",
        r"\.shortcut\.1\.(?!conv|bn)": ".shortcut.0.bn.",
        r"\.shortcut\.2\.": ".shortcut.1.conv.",
        r"\.shortcut\.3\.": ".shortcut.1.bn.",
    },
    float16_unsafe="Under random weights, sums that no norm follows grow from block to block and pass 65504 in 1.0x.",
)
