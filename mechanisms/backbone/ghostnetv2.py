"""GhostNetV2: ghost bottlenecks whose wide features are gated by long rows and columns of a map half as large. Logits.

u = ghost(x) * up(sigmoid(BN(V ∗ BN(H ∗ BN(P · pool(x))))))      b m h w    H: depth-wise 1 × 5, V: 5 × 1, pool: 2 × 2
y = ghost₂( gate( BN(D_s ∗ u) ) ) + shortcut(x)                  b o h/s w/s
z = W relu(H mean(relu(BN(L · x))))                              b classes
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms._layers.ghost_bottleneck import GhostBottleneck, GhostClassifier, Row
from attn_export.mechanisms.conv.ghost import GhostModule
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec

#: Bottlenecks at the start whose features are not gated (paper, section 3.4).
_PLAIN = 2


class GatedGhostModule(GhostModule):
    """A ghost module with decoupled fully connected attention (paper, section 3.2)."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs)
        self.attention = nn.Sequential(
            ConvBN(channels, outputs),
            ConvBN(outputs, outputs, (1, 5), groups=outputs),
            ConvBN(outputs, outputs, (5, 1), groups=outputs),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Make features and gate them."""
        y = super().forward(x)
        gate = torch.sigmoid(self.attention(F.avg_pool2d(x, 2)))
        return y * F.interpolate(gate, size=y.shape[2:], mode="nearest")


class GhostNetV2(GhostClassifier):
    """A classifier; its last maps are at least 2 × 2.

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


def _bottleneck(channels: int, row: Row, place: int) -> GhostBottleneck:
    _, middle, outputs, _, _ = row
    first = GhostModule(channels, middle) if place < _PLAIN else GatedGhostModule(channels, middle)
    return GhostBottleneck(first, GhostModule(middle, outputs, activation=False), channels, row)


MECHANISM = Spec(
    paper=Paper(
        "GhostNetV2: Enhance Cheap Operation with Long-Range Attention", "Tang et al.", "NeurIPS 2022", "2211.12905"
    ),
    build=GhostNetV2,
    inputs=(Input("x", ("b", 3, "h", "w")),),
    tasks=("classification", "detection", "segmentation"),
    dynamic=(Dim("b"), Dim("h", min=64), Dim("w", min=64)),
    presets={
        "test": Preset(
            {
                "stages": (((3, 8, 8, 0, 1),), ((3, 12, 12, 0, 2),), ((5, 24, 16, 0.25, 2), (5, 24, 16, 0.25, 1))),
                "stem": 8,
                "last": 24,
                "hidden": 32,
                "classes": 10,
            },
            {"h": 72, "w": 64},
        ),
        "readme": Preset(
            {
                "stages": (
                    ((3, 16, 16, 0, 1),),
                    ((3, 48, 24, 0, 2),),
                    ((3, 72, 24, 0, 1),),
                    ((5, 72, 40, 0.25, 2),),
                    ((5, 120, 40, 0.25, 1),),
                    ((3, 240, 80, 0, 2),),
                    (
                        (3, 200, 80, 0, 1),
                        (3, 184, 80, 0, 1),
                        (3, 184, 80, 0, 1),
                        (3, 480, 112, 0.25, 1),
                        (3, 672, 112, 0.25, 1),
                    ),
                    ((5, 672, 160, 0.25, 2),),
                    ((5, 960, 160, 0, 1), (5, 960, 160, 0.25, 1), (5, 960, 160, 0, 1), (5, 960, 160, 0.25, 1)),
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
        r"\.short_conv\.0\.": ".attention.0.conv.",
        r"\.short_conv\.1\.": ".attention.0.bn.",
        r"\.short_conv\.2\.": ".attention.1.conv.",
        r"\.short_conv\.3\.": ".attention.1.bn.",
        r"\.short_conv\.4\.": ".attention.2.conv.",
        r"\.short_conv\.5\.": ".attention.2.bn.",
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
