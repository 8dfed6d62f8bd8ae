"""FastViT: a mixer that is one depth-wise filter once trained, and MLPs behind large filters. Logits.

x = RepMixer(x)                                   b c h w      see ``repmixer``
x = x + γ * W2 gelu(W1 BN(D ∗ x))                 b c h w      D: depth-wise 7 × 7
x = gelu(U(BN(L ∗ x) + BN(S ∗ x)))                b o h/2 w/2  between stages; L 7 × 7, S 3 × 3, o/c filters a channel
y = W mean(gelu(gate(U(x))))                      b classes    U: branches as MobileOne's, one convolution deployed
"""

import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.fast_mixer import Halving, RepMixerBlock, Unit
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class FastViT(nn.Module):
    """A classifier; the defaults are T8 (paper, table 2).

    Args:
        widths: channels of the stages; each is a multiple of the one before.
        depths: blocks of the stages.
        mlp_ratio: width of the MLPs over the channels.
        classes: outputs.
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (2, 2, 4, 2),
        mlp_ratio: float = 3.0,
        classes: int = 1000,
    ) -> None:
        positive(classes=classes)
        super().__init__()
        first, last = widths[0], widths[-1]
        self.stem = nn.Sequential(
            Unit(3, first, 3, stride=2), Unit(first, first, 3, stride=2, groups=first), Unit(first, first, 1)
        )
        stages = list[nn.Module]()
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            halving = [Halving(widths[level - 1], width)] if level else []
            stages.append(nn.Sequential(*halving, *(RepMixerBlock(width, mlp_ratio) for _ in range(depth))))
        self.stages = nn.Sequential(*stages)
        self.last = Unit(last, 2 * last, 3, groups=last, gate=True)
        self.head = nn.Linear(2 * last, classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        y: Tensor = self.head(self.last(self.stages(self.stem(x))).mean((2, 3)))
        return y


def _in_stages(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put what halves a map before the blocks behind it: timm keeps it apart, Apple counts both in one row."""
    new = {}
    for name, value in state.items():
        here = re.sub(r"^stages\.(\d+)\.downsample\.proj\.", r"stages.\1.0.", name)
        here = re.sub(r"^stages\.(\d+)\.blocks\.(\d+)\.", lambda m: f"stages.{m[1]}.{int(m[2]) + (m[1] > '0')}.", here)
        here = re.sub(r"^network\.(\d+)\.proj\.", lambda m: f"stages.{int(m[1]) // 2 + 1}.0.", here)
        here = re.sub(
            r"^network\.(\d+)\.(\d+)\.", lambda m: f"stages.{int(m[1]) // 2}.{int(m[2]) + (m[1] > '0')}.", here
        )
        new[here] = value
    return new


MECHANISM = Spec(
    paper=Paper("FastViT: A Fast Hybrid Vision Transformer", "Vasu et al.", "ICCV 2023", "2303.14189"),
    build=FastViT,
    inputs=(Input("x", ("b", 3, "h", "w")),),
    tasks=("classification", "detection", "segmentation"),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset(
            {"widths": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratio": 2.0, "classes": 10}, {"h": 48, "w": 40}
        ),
        "readme": Preset({}, {"h": 256, "w": 256}),
        "t12": Preset({"widths": (64, 128, 256, 512), "depths": (2, 2, 6, 2)}, {"h": 256, "w": 256}),
        "s12": Preset({"widths": (64, 128, 256, 512), "depths": (2, 2, 6, 2), "mlp_ratio": 4.0}, {"h": 256, "w": 256}),
    },
    convert=_in_stages,
    checkpoint={
        r"^patch_embed\.": "stem.",
        r"^(conv_exp|final_conv)\.": "last.",
        r"^head\.fc\.": "head.",
        r"\.rbr_skip\.": ".identity.",
        r"\.(rbr_conv|conv_kxk)\.": ".branches.",
        r"\.(rbr_scale|conv_scale)\.": ".point.",
        r"\.se\.(reduce|fc1)\.": ".gate.conv_reduce.",
        r"\.se\.(expand|fc2)\.": ".gate.conv_expand.",
        r"^(stages\.\d+\.0)\.0\.(lkb_origin|large_conv)\.": r"\1.large.",
        r"^(stages\.\d+\.0)\.0\.small_conv\.": r"\1.small.",
        r"^(stages\.\d+\.0)\.1\.": r"\1.mix.",
        r"\.(?:convffn|mlp)\.conv\.": ".mlp.0.",
        r"\.(?:convffn|mlp)\.fc1\.": ".mlp.1.",
        r"\.(?:convffn|mlp)\.fc2\.": ".mlp.3.",
        r"\.token_mixer\.mixer\.branches\.0\.": ".mixer.dense.",
        r"\.token_mixer\.norm\.identity\.": ".mixer.norm.",
        r"\.token_mixer\.(mixer\.)?": ".mixer.",
        r"\.layer_scale(\.gamma)?$": ".gamma",
    },
)
