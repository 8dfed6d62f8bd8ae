"""EfficientFormer: pooling as the token mixer on maps, attention on the last map alone; made for a phone's latency.

x = x + a * (pool(x) - x);  x = x + c * BN(W2 gelu(BN(W1 x)))      b c h w, W 1 × 1
x = x + a * A(LN x);        x = x + c * W2 gelu(W1 LN x)           b n c, the last blocks, bias by distance
y = (W1 mean(LN x) + W2 mean(LN x)) / 2                            b classes
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.scaled_blocks import AttentionBlock, PoolingBlock
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class EfficientFormer(nn.Module):
    """A classifier of square images; the defaults are L1.

    Args:
        size: of the image; a thirty-second of it is the side of the last map.
        widths: channels of the stages.
        depths: blocks of the stages.
        attention: how many of the last stage's blocks attend.
        mlp_ratio: width of the MLPs over the channels.
        classes: outputs.
    """

    def __init__(
        self,
        size: int = 224,
        widths: Sequence[int] = (48, 96, 224, 448),
        depths: Sequence[int] = (3, 2, 6, 4),
        attention: int = 1,
        mlp_ratio: float = 4.0,
        classes: int = 1000,
    ) -> None:
        positive(size=size, attention=attention, classes=classes)
        super().__init__()
        self.stem = nn.Sequential(*_halve(3, widths[0] // 2), nn.ReLU(), *_halve(widths[0] // 2, widths[0]), nn.ReLU())
        parts = list[nn.Module]()
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            parts += [nn.Sequential(*_halve(widths[level - 1], width))] if level else []
            pooling = depth - attention if level == len(widths) - 1 else depth
            parts.append(nn.Sequential(*(PoolingBlock(width, mlp_ratio) for _ in range(pooling))))
        self.maps = nn.Sequential(*parts)
        last, side = widths[-1], -(-size // 32)
        self.tokens = nn.Sequential(*(AttentionBlock(last, mlp_ratio, side) for _ in range(attention)))
        self.norm = nn.LayerNorm(last)
        self.head, self.dist_head = nn.Linear(last, classes), nn.Linear(last, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.tokens(self.maps(self.stem(image)).flatten(2).transpose(1, 2))
        x = self.norm(x).mean(1)
        return torch.div(self.head(x) + self.dist_head(x), 2)


def _halve(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs)


def _as_the_authors(name: str) -> str:
    """Give a name of timm's as the authors have it."""
    new = re.sub(r"^stages\.(\d+)\.blocks\.", lambda m: f"network.{2 * int(m[1])}.", name)
    new = re.sub(r"^stages\.(\d+)\.downsample\.", lambda m: f"network.{2 * int(m[1]) - 1}.", new)
    new = re.sub(r"^(network\.\d+)\.conv\.", r"\1.proj.", re.sub(r"\.ls([12])\.gamma$", r".layer_scale_\1", new))
    for old, place in (("conv1", 0), ("norm1", 1), ("conv2", 3), ("norm2", 4)):
        new = new.replace(f"stem.{old}.", f"patch_embed.{place}.")
    return new.replace("head_dist.", "dist_head.")


def _by_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the parts of the MLPs, which are of two kinds, and tell maps from tokens."""
    named = {}
    state = {_as_the_authors(name): value for name, value in state.items()}
    for name, value in state.items():
        block, mlp, part = name.rpartition("mlp.")
        if mlp and f"{block}mlp.norm1.weight" in state:
            for old, new in (("fc1", "0"), ("norm1", "1"), ("fc2", "3"), ("norm2", "4")):
                part = part.replace(f"{old}.", f"{new}.")
        elif mlp:
            part = part.replace("fc1.", "0.").replace("fc2.", "2.")
        new = re.sub(r"^network\.(\d+)\.proj\.", r"maps.\1.0.", f"{block}{mlp}{part}")
        new = re.sub(r"^network\.(\d+)\.norm\.", r"maps.\1.1.", re.sub(r"^patch_embed\.", "stem.", new))
        named[re.sub(r"^network\.", "maps.", new)] = value
    # Behind the last map's pooling comes an empty place, and behind that the blocks that attend, counted on.
    attending = [int(name.split(".")[2]) for name in named if "token_mixer." in name and name.startswith("maps.6.")]
    first = min(attending, default=0)
    moved = {f"maps.6.{place}.": f"tokens.{place - first}." for place in attending}
    return {re.sub(r"^maps\.6\.\d+\.", lambda m: moved.get(m[0], m[0]), name): value for name, value in named.items()}


MECHANISM = Spec(
    paper=Paper("EfficientFormer: Vision Transformers at MobileNet Speed", "Li et al.", "NeurIPS 2022", "2206.01191"),
    build=EfficientFormer,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 64,
                "widths": (8, 8, 16, 16),
                "depths": (1, 1, 1, 2),
                "mlp_ratio": 2.0,
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 224}),
        "l3": Preset({"size": 224, "widths": (64, 128, 320, 512), "depths": (4, 4, 12, 6), "attention": 4}),
    },
    convert=_by_part,
    checkpoint={
        r"attention_bias_idxs$": None,
        r"token_mixer\.attention_biases$": "attention.bias.table",
        r"token_mixer\.": "attention.",
        r"layer_scale_([12])$": r"gamma_\1",
    },
)
