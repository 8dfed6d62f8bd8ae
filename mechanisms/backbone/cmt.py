"""CMT: convolutions and attention in one block, in four stages whose keys and values are of a smaller map. Logits.

x = BN(gelu(C ∗ x))                       three 3 × 3, the first at stride 2
x = LN(P ∗ x)                             2 × 2 at stride 2, at the start of each stage
x = block(x)                              see ``local_transformer``; a stage's blocks share a learnt bias on the logits
y = W mean(swish(BN(W' x)))               b classes
"""

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.channel_norm import ChannelNorm
from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.local_transformer import LocalTransformerBlock
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class CMTStage(nn.Module):
    """Make the map smaller, and mix it.

    Args:
        inputs: channels.
        channels: of the stage.
        side: of its map.
        depth: number of blocks.
        heads: of the attention.
        ratio: of the keys' and values' map.
        mlp_ratio: width of the MLPs over ``channels``.

    Raises:
        ValueError: ``ratio`` does not divide ``side``, or ``heads`` not ``channels``.
    """

    def __init__(
        self, inputs: int, channels: int, side: int, depth: int, heads: int, ratio: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        if side % ratio:
            raise ValueError(f"ratio must divide the side of the map; {ratio} does not divide {side}")
        self.embed = nn.Conv2d(inputs, channels, 2, 2)
        self.norm = ChannelNorm(channels, 1e-5)
        self.bias = nn.Parameter(torch.randn(heads, side**2, (side // ratio) ** 2) * 0.02)
        self.blocks = nn.ModuleList(LocalTransformerBlock(channels, heads, ratio, mlp_ratio) for _ in range(depth))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Halve and mix."""
        x = self.norm(self.embed(x))
        for block in self.blocks:
            x = block(x, self.bias)
        return x


class CMT(nn.Module):
    """A classifier of square images; the defaults are CMT-Ti at 160.

    Args:
        size: of the image.
        stem: channels of the first convolutions.
        widths: channels of the stages.
        depths: blocks of the stages.
        heads: of the stages.
        ratios: of the keys' and values' maps, by stage.
        mlp_ratio: width of the MLPs over the channels.
        hidden: channels before the mean.
        classes: outputs.

    Raises:
        ValueError: a stage's map or channels cannot be cut as asked.
    """

    def __init__(
        self,
        size: int = 160,
        stem: int = 16,
        widths: Sequence[int] = (46, 92, 184, 368),
        depths: Sequence[int] = (2, 2, 10, 2),
        heads: Sequence[int] = (1, 2, 4, 8),
        ratios: Sequence[int] = (8, 4, 2, 1),
        mlp_ratio: float = 3.6,
        hidden: int = 1280,
        classes: int = 1000,
    ) -> None:
        positive(size=size, stem=stem, hidden=hidden, classes=classes)
        super().__init__()
        parts = list[nn.Module]()
        for inputs, stride in ((3, 2), (stem, 1), (stem, 1)):
            parts += [nn.Conv2d(inputs, stem, 3, stride, 1), nn.GELU(), nn.BatchNorm2d(stem)]
        self.stem = nn.Sequential(*parts)
        stages, before, side = list[nn.Module](), stem, size // 2
        for width, depth, count, ratio in zip(widths, depths, heads, ratios, strict=True):
            side //= 2
            stages.append(CMTStage(before, width, side, depth, count, ratio, mlp_ratio))
            before = width
        self.stages = nn.Sequential(*stages)
        self.fc, self.bn = nn.Conv2d(before, hidden, 1), nn.BatchNorm2d(hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = F.silu(self.bn(self.fc(self.stages(self.stem(image)))))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def _by_stage(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename by stage, which the authors' reimplementation letters."""
    named = {}
    for name, value in state.items():
        new = re.sub(r"^blocks_([a-d])\.", lambda m: f"stages.{ord(m[1]) - 97}.blocks.", name)
        new = re.sub(r"^patch_embed_([a-d])\.proj\.", lambda m: f"stages.{ord(m[1]) - 97}.embed.", new)
        new = re.sub(r"^patch_embed_([a-d])\.norm\.", lambda m: f"stages.{ord(m[1]) - 97}.norm.", new)
        new = re.sub(r"^relative_pos_([a-d])$", lambda m: f"stages.{ord(m[1]) - 97}.bias", new)
        new = re.sub(r"^stem_(conv|norm)(\d)\.", lambda m: f"stem.{3 * int(m[2]) - (3 if m[1] == 'conv' else 1)}.", new)
        named[re.sub(r"^_(fc|bn)\.", r"\1.", new)] = value
    return named


MECHANISM = Spec(
    paper=Paper("CMT: Convolutional Neural Networks Meet Vision Transformers", "Guo et al.", "CVPR 2022", "2107.06263"),
    build=CMT,
    tasks=("classification", "detection"),
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 64,
                "stem": 8,
                "widths": (8, 16, 32, 64),
                "depths": (1, 1, 1, 1),
                "mlp_ratio": 2.0,
                "hidden": 32,
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 160}),
    },
    convert=_by_stage,
)
