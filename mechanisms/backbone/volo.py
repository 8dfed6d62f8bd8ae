"""VOLO: outlook attention on a fine map, then a transformer on a coarse one, and a class that reads it. Logits.

x = P ∗ C3 C2 C1 image                             b h w c; C a convolution with BN and ReLU, 8 pixels a side in all
x = x + O(LN x);  x = x + MLP(LN x)                see ``outlook``: windows at every second pixel
x = D ∗ x + position;  x = x + A(LN x);  x = x + MLP(LN x)     half the rows and columns; three stages, b n d
c = c + A(LN [c; x])_0;  c = c + MLP(LN c)         of c alone; twice
y = W LN(c) + max(W' LN(x)) / 2                    the largest of each class over the places (paper, section 3.3)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.class_attention import ClassAttention, ClassBlock
from attn_export.mechanisms._layers.initial import he_convolutions
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.token_attention import TokenAttention
from attn_export.mechanisms.attention.outlook import OutlookAttention
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class Outlooker(PreNormBlock):
    """Outlook attention and an MLP on a map, channels last."""

    def __init__(
        self, channels: int, heads: int, mlp_ratio: float, bias: bool = False, kernel: int = 3, stride: int = 2
    ) -> None:
        super().__init__(channels, OutlookAttention(channels, heads, kernel, stride, bias), mlp_ratio)


class VOLO(nn.Module):
    """A classifier of square images; the defaults are VOLO-D1.

    Args:
        size: of the image.
        stem: channels of the first convolutions.
        widths: channels of the four stages; those of the last three are equal.
        depths: blocks of the stages, outlookers in the first.
        heads: of the stages.
        mlp_ratio: width of the MLPs over the channels.
        bias: of queries, keys and values.
        class_depth: blocks of the class token.
        places: whether half the largest logits of the map's places are added.
        classes: outputs.

    Raises:
        ValueError: ``size`` is not a multiple of 16, the last three of ``widths`` differ, or ``heads`` do not divide.
    """

    def __init__(
        self,
        size: int = 224,
        stem: int = 64,
        widths: Sequence[int] = (192, 384, 384, 384),
        depths: Sequence[int] = (4, 4, 8, 2),
        heads: Sequence[int] = (6, 12, 12, 12),
        mlp_ratio: float = 3.0,
        bias: bool = False,
        class_depth: int = 2,
        places: bool = True,
        classes: int = 1000,
    ) -> None:
        positive(size=size, stem=stem, class_depth=class_depth, classes=classes)
        super().__init__()
        fine, channels = widths[0], widths[-1]
        if size % 16 or set(widths[1:]) != {channels}:
            raise ValueError(f"size must be a multiple of 16, the last widths equal; got {size} and {tuple(widths)}")
        parts = list[nn.Module]()
        for inputs, side, step in ((3, 7, 2), (stem, 3, 1), (stem, 3, 1)):
            parts += [nn.Conv2d(inputs, stem, side, step, side // 2, bias=False), nn.BatchNorm2d(stem), nn.ReLU()]
        self.stem = nn.Sequential(*parts)
        self.embed = nn.Conv2d(stem, fine, 4, 4)
        self.outlook = nn.Sequential(*(Outlooker(fine, heads[0], mlp_ratio, bias) for _ in range(depths[0])))
        self.merge = nn.Conv2d(fine, channels, 2, 2)
        self.pos_embed = nn.Parameter(torch.randn(1, size // 16, size // 16, channels) * 0.02)
        stages = list[nn.Module]()
        for count, depth in zip(heads[1:], depths[1:], strict=True):
            attentions = (TokenAttention(channels, count, bias) for _ in range(depth))
            stages.append(nn.Sequential(*(PreNormBlock(channels, attention, mlp_ratio) for attention in attentions)))
        self.stages = nn.Sequential(*stages)
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.class_blocks = nn.ModuleList(
            ClassBlock(channels, ClassAttention(channels, heads[-1], bias), mlp_ratio) for _ in range(class_depth)
        )
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)
        self.aux_head = nn.Linear(channels, classes) if places else None
        he_convolutions(self)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        fine = self.outlook(self.embed(self.stem(image)).permute(0, 2, 3, 1))
        x = self.merge(fine.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        x = self.stages(x + self.pos_embed.flatten(1, 2))
        token = self.cls_token.expand(x.shape[0], -1, -1)
        for block in self.class_blocks:
            token = block(torch.cat((token, x), 1))
        y: Tensor = self.head(self.norm(token[:, 0]))
        return y if self.aux_head is None else y + 0.5 * self.aux_head(self.norm(x)).amax(1)


def _kv_apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut the joint projection of the class blocks to keys and values."""
    apart = {name: value for name, value in state.items() if ".attn.kv." not in name}
    for name in state.keys() - apart.keys():
        k, v = (name.replace(".attn.kv.", f".attention.{part}.") for part in "kv")
        apart[k], apart[v] = state[name].chunk(2)
    return apart


MECHANISM = Spec(
    paper=Paper("VOLO: Vision Outlooker for Visual Recognition", "Yuan et al.", "TPAMI 2022", "2106.13112"),
    build=VOLO,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 64,
                "stem": 8,
                "widths": (16, 32, 32, 32),
                "depths": (1, 1, 1, 1),
                "heads": (2, 4, 4, 4),
                "mlp_ratio": 2.0,
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 224}),
        "d2": Preset({"size": 224, "widths": (256, 512, 512, 512), "depths": (6, 4, 10, 4), "heads": (8, 16, 16, 16)}),
    },
    convert=_kv_apart,
    checkpoint={
        r"^patch_embed\.conv\.": "stem.",
        r"^patch_embed\.proj\.": "embed.",
        r"^network\.0\.": "outlook.",
        r"^network\.1\.proj\.": "merge.",
        r"^network\.2\.": "stages.0.",
        r"^network\.3\.": "stages.1.",
        r"^network\.4\.": "stages.2.",
        r"^post_network\.": "class_blocks.",
        r"\battn\.v\.": "attention.value.",
        r"\battn\.attn\.": "attention.weigh.",
        r"^(outlook\.\d+\.|)attn\.proj\.": r"\1attention.project.",
        r"\.attn\.": ".attention.",
        r"\bmlp\.fc1\.": "mlp.0.",
        r"\bmlp\.fc2\.": "mlp.2.",
    },
)
