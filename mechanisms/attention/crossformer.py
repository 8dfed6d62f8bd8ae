"""CrossFormer: patches of several sizes, then attention within near groups and far-spread groups by turns.

x = LN([conv_4(image); conv_8; conv_16; ...])                        stride 4: b c h w
x = x + A(LN x);  x = x + MLP(LN x)                                  A near in even, far in odd blocks
A = softmax(Q Kᵀ / sqrt(d) + P(dy, dx)) V  within groups of g × g    P an MLP of the offset, one output a head
x = [conv_2(LN x); conv_4(LN x)], half as high and wide              between stages
y = W mean_hw(LN x)                                                  b classes

A near group is a square of g × g neighbours; a far one takes a pixel every h / g rows and w / g columns.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.cross_scale import CrossScale
from attn_export.mechanisms._layers.group_attention import GroupAttention
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


def block(
    channels: int, size: tuple[int, int], heads: int, group: int, far: bool, mlp_ratio: float = 4.0
) -> PreNormBlock:
    """Build a block on near or far groups."""
    return PreNormBlock(channels, GroupAttention(channels, size, heads, group, far), mlp_ratio)


class CrossFormer(nn.Module):
    """A classifier; gives logits. Sequences hold one item a stage.

    Args:
        size: height and width of the image.
        kernels: sides of the patches; the first is the stride.
        merges: sides of the patches that lead to each stage but the first.
        channels: of the first stage; each next one has twice as many.
        depths: numbers of blocks.
        heads: numbers of heads.
        groups: sides of the groups.
        mlp_ratio: width of the MLPs over their channels.
        classes: number of labels.

    Raises:
        ValueError: sequences do not fit each other, or sizes do not divide.
    """

    def __init__(
        self,
        size: tuple[int, int] = (48, 48),
        kernels: Sequence[int] = (4, 8, 16),
        merges: Sequence[Sequence[int]] = ((2, 4),),
        channels: int = 48,
        depths: Sequence[int] = (2, 2),
        heads: Sequence[int] = (3, 6),
        groups: Sequence[int] = (3, 3),
        mlp_ratio: float = 4.0,
        classes: int = 10,
    ) -> None:
        positive(channels=channels, classes=classes)
        super().__init__()
        if not len(depths) == len(heads) == len(groups) == len(merges) + 1:
            raise ValueError("depths, heads and groups need one item a stage, merges one less")
        if any(n % (kernels[0] * 2 ** len(merges)) for n in size):
            raise ValueError(f"the image must divide by {kernels[0] * 2 ** len(merges)}; it is {size[0]} x {size[1]}")
        rows, columns = size[0] // kernels[0], size[1] // kernels[0]
        self.embed, self.embed_norm = CrossScale(3, channels, kernels), nn.LayerNorm(channels)
        self.norms, self.merges, self.stages = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, (depth, h, group) in enumerate(zip(depths, heads, groups, strict=True)):
            if i:
                self.norms.append(nn.LayerNorm(channels))
                self.merges.append(CrossScale(channels, 2 * channels, merges[i - 1]))
                rows, columns, channels = rows // 2, columns // 2, 2 * channels
            blocks = nn.Sequential()
            for j in range(depth):
                blocks.append(block(channels, (rows, columns), h, group, j % 2 == 1, mlp_ratio))
            self.stages.append(blocks)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.embed_norm(self.embed(image))  # b h w c
        for i, stage in enumerate(self.stages):
            if i:
                x = self.merges[i - 1](self.norms[i - 1](x).permute(0, 3, 1, 2))
            x = stage(x.flatten(1, 2)).reshape(x.shape)
        logits: Tensor = self.head(self.norm(x).mean((1, 2)))
        return logits


MECHANISM = Spec(
    paper=Paper(
        "CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention",
        "Wang et al.",
        "ICLR 2022",
        "2108.00154",
    ),
    build=CrossFormer,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("image", ("b", 3, "h", "w")),),
    presets={
        "test": Preset({"size": (48, 24), "depths": (2, 1), "mlp_ratio": 1.0}, {"h": 48, "w": 24}),
        "readme": Preset(
            {
                "size": (224, 224),
                "kernels": (4, 8, 16, 32),
                "merges": ((2, 4), (2, 4), (2, 4)),
                "depths": (2, 2, 6, 2),
                "heads": (3, 6, 12, 24),
                "groups": (7, 7, 7, 7),
                "classes": 1000,
            },
            {"h": 224, "w": 224},
        ),
    },
    checkpoint={
        r"^patch_embed\.projs\.": "embed.convolutions.",
        r"^patch_embed\.norm\.": "embed_norm.",
        r"^layers\.(\d+)\.downsample\.reductions\.": r"merges.\1.convolutions.",
        r"^layers\.(\d+)\.downsample\.norm\.": r"norms.\1.",
        r"^layers\.(\d+)\.blocks\.": r"stages.\1.",
        r"\battn\.(biases|relative_position_index)$": None,
        r"\battn\.pos\.pos_proj\.": "attn.position.0.",
        r"\battn\.pos\.pos1\.0\.": "attn.position.1.",
        r"\battn\.pos\.pos1\.2\.": "attn.position.3.",
        r"\battn\.pos\.pos2\.0\.": "attn.position.4.",
        r"\battn\.pos\.pos2\.2\.": "attn.position.6.",
        r"\battn\.pos\.pos3\.0\.": "attn.position.7.",
        r"\battn\.pos\.pos3\.2\.": "attn.position.9.",
        r"\battn\.proj\.": "attn.out.",
        r"\battn\.": "attention.",
        r"\bmlp\.fc1\.": "mlp.0.",
        r"\bmlp\.fc2\.": "mlp.2.",
    },
)
