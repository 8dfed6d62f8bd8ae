"""Vision transformer with deformable attention: windows, shifted windows, and attention to points that queries place.

x = LN(conv_p(image))                                        b h w c
x = x + A(LN x);  x = x + MLP(LN x)                          A a letter of the stage: L, S or D
x = LN(conv_2(x)), half as high and wide                     between stages
y = W mean_hw(LN x)                                          b classes

L attends within windows, S within windows moved by half of one, D to deformed points.
"""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.dat_stage import blockwise, lettered
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.strided_embed import Embed
from attn_export.mechanisms.spec import Input, Paper, Preset, Source, Spec


class DAT(nn.Module):
    """A classifier of square images; gives logits. Sequences hold one item a stage.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the stages.
        layers: kinds of attention, a letter each.
        heads: numbers of heads.
        windows: sides of the windows.
        groups: of channels with their own points; None where there is no D.
        offset_ranges: how many cells points may move; None where there is no D.
        expansion: width of the MLPs over their channels.
        classes: number of labels.
        release: of the authors' code, whose deformed points lie otherwise since 2023.

    Raises:
        ValueError: sequences differ in length, a letter is unknown, or patches or windows do not divide the image.
    """

    def __init__(
        self,
        size: int = 64,
        patch: int = 4,
        channels: Sequence[int] = (8, 16, 32, 64),
        layers: Sequence[str] = ("LS", "LS", "LD", "LD"),
        heads: Sequence[int] = (1, 2, 4, 4),
        windows: Sequence[int] = (4, 4, 2, 2),
        groups: Sequence[int | None] = (None, None, 2, 2),
        offset_ranges: Sequence[float | None] = (None, None, 2.0, 2.0),
        expansion: int = 2,
        classes: int = 10,
        release: Literal["2022", "2023"] = "2022",
    ) -> None:
        positive(size=size, patch=patch, expansion=expansion, classes=classes)
        super().__init__()
        if len({len(channels), len(layers), len(heads), len(windows), len(groups), len(offset_ranges)}) > 1:
            raise ValueError("channels, layers, heads, windows, groups and offset_ranges need one item a stage each")
        self.embeds, self.stages = nn.ModuleList(), nn.ModuleList()
        inputs, side = 3, size
        for i, (c, kinds, h, window) in enumerate(zip(channels, layers, heads, windows, strict=True)):
            step = patch if i == 0 else 2
            if side % step or (side // step) % window:
                raise ValueError(f"stage {i}: a map of {side} does not divide by {step} and by windows of {window}")
            side //= step
            self.embeds.append(Embed(inputs, c, step, bias=i == 0))
            blocks = nn.Sequential()
            for kind in kinds:
                attention = lettered(kind, i, c, h, window, side, groups[i], offset_ranges[i], release)
                blocks.append(PreNormBlock(c, attention, expansion))
            self.stages.append(blocks)
            inputs = c
        self.norm = nn.LayerNorm(inputs)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = image
        for embed, stage in zip(self.embeds, self.stages, strict=True):
            x = stage(embed(x)).permute(0, 3, 1, 2)
        logits: Tensor = self.head(self.norm(x.permute(0, 2, 3, 1)).mean((1, 2)))
        return logits


_NAMES = (r"^stages\.\d+\.attns\.", r"^cls_head\.")

MECHANISM = Spec(
    paper=Paper("Vision Transformer with Deformable Attention", "Xia et al.", "CVPR 2022", "2201.00520"),
    build=DAT,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 32,
                "channels": (8, 16),
                "layers": ("LS", "LD"),
                "heads": (1, 4),
                "windows": (4, 2),
                "groups": (None, 2),
                "offset_ranges": (None, 2.0),
            }
        ),
        "readme": Preset(
            {
                "size": 224,
                "channels": (96, 192, 384, 768),
                "layers": ("LS", "LS", "LDLDLD", "LD"),
                "heads": (3, 6, 12, 24),
                "windows": (7, 7, 7, 7),
                "groups": (None, None, 3, 6),
                "expansion": 4,
                "classes": 1000,
            }
        ),
    },
    sources={
        "2022": Source("their first code and External-Attention-pytorch", _NAMES, arguments={"release": "2022"}),
        "2023": Source("the authors' code since DAT++, whose grids differ", _NAMES, arguments={"release": "2023"}),
    },
    checkpoint={
        r"^patch_proj\.": "embeds.0.",
        r"^down_projs\.0\.": "embeds.1.",
        r"^down_projs\.1\.": "embeds.2.",
        r"^down_projs\.2\.": "embeds.3.",
        r"^(embeds\.\d)\.0\.": r"\1.convolution.",
        r"^(embeds\.\d)\.1\.norm\.": r"\1.norm.",
        r"mlps\.(\d+)\.chunk\.linear1\.": r"\1.mlp.0.",
        r"mlps\.(\d+)\.chunk\.linear2\.": r"\1.mlp.2.",
        r"attns\.(\d+)\.": r"\1.attention.",
        r"(relative_position_index|attn_mask)$": None,
        r"relative_position_bias_table$": "bias.table",
        r"proj_qkv\.": "qkv.",
        r"proj_q\.": "query.",
        r"proj_k\.": "key.",
        r"proj_v\.": "value.",
        r"proj_out\.": "out.",
        r"conv_offset\.1\.norm\.": "conv_offset.1.",
        r"conv_offset\.": "offset.",
        r"rpe_table\.": "local.",
        r"rpe_table$": "table",
        r"^cls_norm\.norm\.": "norm.",
        r"^cls_head\.": "head.",
    },
    convert=blockwise,
)
