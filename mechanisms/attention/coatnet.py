"""CoAtNet: a network of convolutions first and attention with relative positions after, all pre-norm residual.

stem     conv3×3 stride 2, BN, gelu, conv3×3 …           b c0 s/2 s/2
C stage  x = P pool(x) + conv1(SE(dw3(conv1(BN x))))     pool and stride 2 in the first block of a stage
T stage  x = P pool(x) + attention(pool(LN x)),  softmax(q k / sqrt(d) + w_(i - j)) v
         x = x + W2 gelu(W1 LN x)
head     W mean(x)                                       b classes
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._parts.checks import positive
from attn_export.mechanisms._parts.heads import attend, merge_heads, split_heads
from attn_export.mechanisms._parts.position import RelativeBias
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class MBConv(nn.Module):
    """An inverted bottleneck with the norm in front; ``down`` halves the map and may change the channels."""

    def __init__(self, inputs: int, outputs: int, down: bool, expansion: int) -> None:
        super().__init__()
        wide = expansion * outputs
        self.down = down
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if down else nn.Identity()
        self.norm = nn.BatchNorm2d(inputs)
        self.expand = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, 2 if down else 1, bias=False), nn.BatchNorm2d(wide), nn.GELU()
        )
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.GELU()
        )
        self.squeeze = nn.Conv2d(wide, max(1, outputs // 4), 1)
        self.excite = nn.Conv2d(max(1, outputs // 4), wide, 1)
        self.project = nn.Conv2d(wide, outputs, 1)

    def forward(self, x: Float[Tensor, "b ci h w"]) -> Float[Tensor, "b co i j"]:
        """Convolve and add."""
        y = self.depth(self.expand(self.norm(x)))
        y = y * torch.sigmoid(self.excite(F.gelu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        short = self.shortcut(F.max_pool2d(x, 2) if self.down else x)
        total: Tensor = short + self.project(y)
        return total


class TransformerBlock(nn.Module):
    """Attention among all pixels of a map of fixed size, then a network for each; ``down`` halves the map first.

    Raises:
        ValueError: ``head_channels`` does not divide ``outputs``.
    """

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, int], down: bool, expansion: int, head_channels: int
    ) -> None:
        super().__init__()
        if outputs % head_channels:
            raise ValueError(f"head_channels must divide channels; {head_channels} does not divide {outputs}")
        self.down, self.heads = down, outputs // head_channels
        self.shortcut = nn.Linear(inputs, outputs) if down else nn.Identity()
        self.norm = nn.LayerNorm(inputs)
        self.qkv = nn.Linear(inputs, 3 * outputs)
        self.bias = RelativeBias(self.heads, *size)
        self.project = nn.Linear(outputs, outputs)
        self.network = nn.Sequential(
            nn.LayerNorm(outputs),
            nn.Linear(outputs, expansion * outputs),
            nn.GELU(),
            nn.Linear(expansion * outputs, outputs),
        )

    def forward(self, x: Float[Tensor, "b ci h w"]) -> Float[Tensor, "b co i j"]:
        """Attend and add."""
        normed = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.down:
            x, normed = F.max_pool2d(x, 2), F.max_pool2d(normed, 2)
        height, width = x.shape[2:]
        tokens, normed = (t.flatten(2).transpose(1, 2) for t in (x, normed))
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(normed).chunk(3, -1))
        tokens = self.shortcut(tokens) + self.project(merge_heads(attend(q, k, v, bias=self.bias())))
        tokens = tokens + self.network(tokens)
        y: Tensor = tokens.transpose(1, 2).reshape(-1, tokens.shape[2], height, width)
        return y


class CoAtNet(nn.Module):
    """A classifier of images of one size; returns logits.

    Args:
        image_size: height and width of the image.
        channels: of the stem and of each stage.
        blocks: convolutions of the stem, then blocks of each stage.
        stages: ``C`` for convolutions or ``T`` for attention, a letter a stage.
        head_channels: channels of one head.
        expansion: of the inverted bottlenecks and of the networks.
        in_channels: of the image.
        classes: of the answer.

    Raises:
        ValueError: the lists differ in length, a stage is neither C nor T or a C follows a T, ``head_channels`` does
            not divide, or the image cannot be halved often enough.
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: tuple[int, ...] = (16, 16, 24, 32, 48),
        blocks: tuple[int, ...] = (1, 1, 1, 1, 1),
        stages: str = "CCTT",
        head_channels: int = 8,
        expansion: int = 4,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        positive(head_channels=head_channels, expansion=expansion, in_channels=in_channels, classes=classes)
        super().__init__()
        if not len(channels) == len(blocks) == len(stages) + 1 or min(blocks) < 1:
            raise ValueError(
                f"wanted channels and blocks for the stem and {len(stages)} stages; got {channels}, {blocks}"
            )
        if stages.strip("C").strip("T") or stages != "".join(sorted(stages)):
            raise ValueError(f"stages are C, then T, as in CCTT; they are {stages!r}")
        if image_size < 1 or image_size % 2 ** len(channels):
            raise ValueError(f"image_size must be a multiple of {2 ** len(channels)}; it is {image_size}")
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels[0], 3, 2, 1, bias=False)]
        for _ in range(blocks[0] - 1):
            layers += [nn.BatchNorm2d(channels[0]), nn.GELU(), nn.Conv2d(channels[0], channels[0], 3, 1, 1, bias=False)]
        self.stem = nn.Sequential(*layers)
        side = image_size // 2
        body: list[nn.Module] = []
        for kind, inputs, outputs, depth in zip(stages, channels, channels[1:], blocks[1:], strict=False):
            side //= 2
            for index in range(depth):
                shape = (outputs if index else inputs, outputs)
                body.append(
                    MBConv(*shape, index == 0, expansion)
                    if kind == "C"
                    else TransformerBlock(*shape, (side, side), index == 0, expansion, head_channels)
                )
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Return the logits."""
        logits: Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return logits


MECHANISM = Spec(
    paper=Paper(
        "CoAtNet: Marrying Convolution and Attention for All Data Sizes", "Dai et al.", "NeurIPS 2021", "2106.04803"
    ),
    build=CoAtNet,
    inputs=(Input("x", ("b", "in_channels", "image_size", "image_size")),),
    presets={
        "test": Preset({"in_channels": 3, "image_size": 64}),
        "readme": Preset(
            {
                "in_channels": 3,
                "image_size": 224,
                "channels": (64, 96, 192, 384, 768),
                "blocks": (2, 2, 3, 5, 2),
                "head_channels": 32,
                "classes": 1000,
            },
            {"b": 1},
        ),
    },
    variants={"deep": Preset({"in_channels": 3, "image_size": 32, "blocks": (2, 2, 1, 2, 1), "stages": "CTTT"})},
)
