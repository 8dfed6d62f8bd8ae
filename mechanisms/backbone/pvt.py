"""Pyramid Vision Transformer: four stages whose keys and values are those of a smaller map. Logits.

x = LN(P ∗ x) + position                                    b n c, at the start of each stage
x = x + A(LN x);  x = x + MLP(LN x)                         A to the map reduced by 8, 4, 2, 1
y = W LN(x)_class, the class token being in the last stage  b classes

With ``conditional`` positions come from a depth-wise 3 × 3 convolution behind the first block of each stage, and the
mean is classified (CPVT: Conditional Positional Encodings, Chu et al., 2102.10882).
"""

import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.pyramid_stage import PyramidStage, as_map
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class PVT(nn.Module):
    """A classifier of square images; the defaults are PVT-Tiny.

    Args:
        size: of the image.
        patch: of the squares it is cut into; those of later stages are of 2 × 2.
        widths: channels of the stages.
        depths: blocks of the stages.
        heads: of the stages.
        reductions: of the keys' and values' map, by stage.
        mlp_ratios: widths of the MLPs over the channels, by stage.
        conditional: whether positions are computed (CPVT) or learnt.
        classes: outputs.
    """

    def __init__(
        self,
        size: int = 224,
        patch: int = 4,
        widths: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        conditional: bool = False,
        classes: int = 1000,
    ) -> None:
        positive(size=size, patch=patch, classes=classes)
        super().__init__()
        self.stages = nn.ModuleList()
        before, self.sides = 3, [size // patch >> level for level in range(len(widths))]
        for level, (width, side) in enumerate(zip(widths, self.sides, strict=True)):
            own = 2 if level else patch, side, depths[level], heads[level], reductions[level], mlp_ratios[level]
            token = not conditional and level == len(widths) - 1
            self.stages.append(PyramidStage(before, width, *own, conditional=conditional, token=token))
            before = width
        self.conditional = conditional
        self.norm = nn.LayerNorm(before, 1e-6)
        self.head = nn.Linear(before, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = image
        for level, stage in enumerate(self.stages):
            x = stage(as_map(x, self.sides[level - 1]) if level else x)
        x = self.norm(x)
        y: Tensor = self.head(x.mean(1) if self.conditional else x[:, 0])
        return y


def _by_stage(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename by stage: PVT's names count from 1, CPVT's from 0."""
    last = max(int(name[5]) for name in state if re.match(r"block\d\.", name)) if "cls_token" in state else 0
    named = {}
    for name, value in state.items():
        new = re.sub(r"^(patch_embed|block|pos_embed)([1-9])\b", lambda m: f"{m[1]}s.{int(m[2]) - 1}", name)
        new = re.sub(r"^patch_embeds\.(\d)\.proj\.", r"stages.\1.embed.", new)
        new = re.sub(r"^patch_embeds\.(\d)\.norm\.", r"stages.\1.norm.", new)
        new = re.sub(r"^pos_embeds\.(\d)", r"stages.\1.learnt", new)
        new = re.sub(r"^pos_block\.(\d)\.proj\.0", r"stages.\1.computed", new)
        new = new.replace("cls_token", f"stages.{last - 1}.class_token")
        named[re.sub(r"^blocks\.(\d)\.", r"stages.\1.blocks.", new)] = value
    return named


MECHANISM = Spec(
    paper=Paper(
        "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
        "Wang et al.",
        "ICCV 2021",
        "2102.12122",
    ),
    build=PVT,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {"size": 64, "widths": (8, 16, 20, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "classes": 10}
        ),
        "readme": Preset({"size": 224}),
        "small": Preset({"size": 224, "depths": (3, 4, 6, 3)}),
        "cpvt": Preset({"size": 224, "conditional": True}),
    },
    variants={
        "conditional": Preset(
            {
                "size": 64,
                "widths": (8, 16, 20, 32),
                "depths": (1, 1, 1, 1),
                "mlp_ratios": (2, 2, 2, 2),
                "classes": 10,
                "conditional": True,
            }
        )
    },
    convert=_by_stage,
    checkpoint={
        r"\.attn\.": ".attention.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
