"""CeiT: a convolutional stem, MLPs with a depth-wise convolution, a class read from the tokens of all layers. Logits.

x = [class; P ∗ pool(BN(C ∗ image))] + position     b 1+n c
x = x + A(LN x)
x = x + [LN class; F(LN rest)]                      F: 1 × 1, depth-wise 3 × 3, 1 × 1 on the map, each with BN
c = the class tokens of all layers + position       b depth c
c = c + A(LN c);  c = c + MLP(LN c);  y = W LN(c)   the last of them is classified
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.token_attention import TokenAttention
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class LocalMLP(nn.Module):
    """An MLP with a depth-wise convolution in its middle, on a square map behind a class token that it leaves alone."""

    def __init__(self, channels: int, hidden: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.parts = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.BatchNorm2d(hidden),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix neighbours and channels."""
        places = x[:, 1:].transpose(1, 2).reshape(-1, x.shape[2], self.side, self.side)
        return torch.cat((x[:, :1], self.parts(places).flatten(2).transpose(1, 2)), 1)


class LocalBlock(PreNormBlock):
    """Attention, then the local MLP."""

    def __init__(self, channels: int, heads: int, mlp_ratio: float, side: int) -> None:
        super().__init__(channels, TokenAttention(channels, heads), mlp_ratio, epsilon=1e-6)
        self.mlp = LocalMLP(channels, round(channels * mlp_ratio), side)


class CeiT(nn.Module):
    """A classifier of square images; the defaults are CeiT-T.

    Args:
        size: of the image.
        channels: of the tokens.
        depth: number of blocks.
        heads: of the attention.
        mlp_ratio: width of the MLPs over ``channels``.
        stem: channels of the first convolution.
        classes: outputs.

    Raises:
        ValueError: ``size`` is not a multiple of 16.
    """

    def __init__(
        self,
        size: int = 224,
        channels: int = 192,
        depth: int = 12,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        stem: int = 64,
        classes: int = 1000,
    ) -> None:
        positive(size=size, channels=channels, depth=depth, heads=heads, stem=stem, classes=classes)
        super().__init__()
        if size % 16:
            raise ValueError(f"size must be a multiple of 16; got {size}")
        side = size // 16
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem), nn.MaxPool2d(3, 2, 1))
        self.embed = nn.Conv2d(stem, channels, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, side * side + 1, channels) * 0.02)
        self.pos_layer_embed = nn.Parameter(torch.randn(1, depth, channels) * 0.02)
        self.blocks = nn.ModuleList(LocalBlock(channels, heads, mlp_ratio, side) for _ in range(depth))
        self.lca = PreNormBlock(channels, TokenAttention(channels, heads), mlp_ratio, epsilon=1e-6)
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.embed(self.stem(image)).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) + self.pos_embed
        seen = []
        for block in self.blocks:
            x = block(x)
            seen.append(x[:, :1])
        layers = self.lca(torch.cat(seen, 1) + self.pos_layer_embed)
        y: Tensor = self.head(self.norm(layers[:, -1]))
        return y


MECHANISM = Spec(
    paper=Paper("Incorporating Convolution Designs into Visual Transformers", "Yuan et al.", "ICCV 2021", "2103.11816"),
    build=CeiT,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset({"size": 64, "channels": 24, "depth": 2, "mlp_ratio": 2.0, "classes": 10}),
        "readme": Preset({"size": 224}),
        "small": Preset({"size": 224, "channels": 384, "heads": 6}),
    },
    checkpoint={
        r"^i2t\.backbone\.conv\.": "stem.0.",
        r"^i2t\.backbone\.bn\.": "stem.1.",
        r"^i2t\.proj\.": "embed.",
        r"\.attn\.": ".attention.",
        r"\.leff\.conv1\.": ".mlp.parts.0.",
        r"\.leff\.bn1\.": ".mlp.parts.1.",
        r"\.leff\.conv2\.": ".mlp.parts.3.",
        r"\.leff\.bn2\.": ".mlp.parts.4.",
        r"\.leff\.conv3\.": ".mlp.parts.6.",
        r"\.leff\.bn3\.": ".mlp.parts.7.",
        r"^lca\.feedforward\.fc1\.": "lca.mlp.0.",
        r"^lca\.feedforward\.fc2\.": "lca.mlp.2.",
    },
)
