"""PiT: a vision transformer whose map shrinks from stage to stage while its channels grow, as in ConvNets.

x = P ∗ image + position                           b n c, beside a class token
x = x + A(LN x);  x = x + MLP(LN x)                tokens of the map and the class token
map = D ∗ map, class = W class                     between stages: depth-wise 3 × 3 at stride 2, twice the channels
y = W LN(class)                                    b classes
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.token_attention import TokenAttention
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class TokenPooling(nn.Module):
    """Halve a map and double its channels; the class token is only widened."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, 2, 1, groups=channels)
        self.fc = nn.Linear(channels, 2 * channels)

    def forward(self, x: Float[Tensor, "b n c"], side: int) -> Float[Tensor, "b m d"]:
        """Pool; the first token is the class token, the others are a square map."""
        places = x[:, 1:].transpose(1, 2).reshape(-1, x.shape[2], side, side)
        return torch.cat((self.fc(x[:, :1]), self.conv(places).flatten(2).transpose(1, 2)), 1)


class PiT(nn.Module):
    """A classifier of square images; the defaults are PiT-Ti.

    Args:
        size: of the image.
        patch: side of the first convolution's kernel.
        stride: of the first convolution.
        head_channels: channels of a head.
        depths: blocks of the stages.
        heads: of the stages, each of which has twice as many as the one before it.
        mlp_ratio: width of the MLPs over the channels.
        classes: outputs.

    Raises:
        ValueError: the image is smaller than a patch.
    """

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        stride: int = 8,
        head_channels: int = 32,
        depths: Sequence[int] = (2, 6, 4),
        heads: Sequence[int] = (2, 4, 8),
        mlp_ratio: float = 4.0,
        classes: int = 1000,
    ) -> None:
        positive(size=size, patch=patch, stride=stride, head_channels=head_channels, classes=classes)
        super().__init__()
        if size < patch:
            raise ValueError(f"size must be no less than patch; got {size} and {patch}")
        widths = [head_channels * count for count in heads]
        side = (size - patch) // stride + 1
        self.embed = nn.Conv2d(3, widths[0], patch, stride)
        self.pos_embed = nn.Parameter(torch.randn(1, widths[0], side, side) * 0.02)
        self.cls_token = nn.Parameter(torch.randn(1, 1, widths[0]) * 0.02)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(PreNormBlock(width, TokenAttention(width, count), mlp_ratio, epsilon=1e-6) for _ in range(depth))
            )
            for width, count, depth in zip(widths, heads, depths, strict=True)
        )
        self.pools = nn.ModuleList(TokenPooling(width) for width in widths[:-1])
        self.sides = [side]
        for _ in self.pools:
            self.sides.append((self.sides[-1] - 1) // 2 + 1)
        self.norm = nn.LayerNorm(widths[-1], 1e-6)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        places = (self.embed(image) + self.pos_embed).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(places.shape[0], -1, -1), places), 1)
        for level, stage in enumerate(self.stages):
            x = stage(self.pools[level - 1](x, self.sides[level - 1]) if level else x)
        y: Tensor = self.head(self.norm(x[:, 0]))
        return y


def _behind(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the poolings the number of the stage before, where timm has them at the start of the next."""
    pattern = re.compile(r"^transformers\.(\d+)\.pool\.")
    return {pattern.sub(lambda m: f"pools.{int(m[1]) - 1}.", name): value for name, value in state.items()}


MECHANISM = Spec(
    paper=Paper("Rethinking Spatial Dimensions of Vision Transformers", "Heo et al.", "ICCV 2021", "2103.16302"),
    build=PiT,
    tasks=("classification", "detection"),
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 63,
                "patch": 14,
                "stride": 7,
                "head_channels": 8,
                "depths": (1, 1, 1),
                "mlp_ratio": 2.0,
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 224}),
        "small": Preset({"size": 224, "head_channels": 48, "heads": (3, 6, 12)}),
        "base": Preset(
            {"size": 224, "patch": 14, "stride": 7, "head_channels": 64, "depths": (3, 6, 4), "heads": (4, 8, 16)}
        ),
    },
    convert=_behind,
    checkpoint={
        r"^patch_embed\.conv\.": "embed.",
        r"^transformers\.(\d+)\.blocks\.": r"stages.\1.",
        r"\.attn\.": ".attention.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
