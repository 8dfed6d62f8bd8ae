"""CoAtNet: a network of convolutions first and attention with relative positions after, all pre-norm residual.

stem     conv3×3 stride 2, BN, gelu, conv3×3 …           b c0 s/2 s/2
C stage  x = P pool(x) + conv1(SE(dw3(conv1(BN x))))     pool and stride 2 in the first block of a stage
T stage  x = P pool(x) + attention(pool(LN x)),  softmax(q k / sqrt(d) + w_(i - j)) v
         x = x + W2 gelu(W1 LN x)
head     W mean(x)                                       b classes
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.prenorm_mbconv import MBConv
from attn_export.mechanisms._layers.relative_transformer import TransformerBlock
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


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
                f"expected channels and blocks for the stem and {len(stages)} stages; got {channels}, {blocks}"
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
