"""DeiT: a vision transformer with a class token, and a second one that was taught by a convolutional network. Logits.

x = [class; distilled; P ∗ image] + position      b 2+n c
x = x + A(LN x);  x = x + MLP(LN x)               depth times
y = (W1 LN(x)_0 + W2 LN(x)_1) / 2                 b classes; W1 LN(x)_0 without distillation
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.token_attention import TokenAttention
from attn_export.mechanisms._layers.vit import ViT
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class DeiT(ViT):
    """A classifier of square images; the defaults are DeiT-Tiny distilled.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the tokens.
        depth: number of blocks.
        heads: of the attention.
        mlp_ratio: width of the MLPs over ``channels``.
        distilled: whether there is a second token with a head of its own; without it this is ViT.
        classes: outputs.

    Raises:
        ValueError: ``patch`` does not divide ``size``.
    """

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        channels: int = 192,
        depth: int = 12,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        distilled: bool = True,
        classes: int = 1000,
    ) -> None:
        positive(channels=channels, depth=depth, heads=heads)
        blocks = [
            PreNormBlock(channels, TokenAttention(channels, heads), mlp_ratio, epsilon=1e-6) for _ in range(depth)
        ]
        super().__init__(size, patch, channels, blocks, classes, tokens=1 + distilled)
        self.dist_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02) if distilled else None
        self.head_dist = nn.Linear(channels, classes) if distilled else None

    def first(self) -> Float[Tensor, "1 t c"]:
        """Give the class token and, where there is one, the distilled token."""
        return self.cls_token if self.dist_token is None else torch.cat([self.cls_token, self.dist_token], 1)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.tokens(image)
        y: Tensor = self.head(x[:, 0])
        return y if self.head_dist is None else (y + self.head_dist(x[:, 1])) / 2


MECHANISM = Spec(
    paper=Paper(
        "Training data-efficient image transformers & distillation through attention",
        "Touvron et al.",
        "ICML 2021",
        "2012.12877",
    ),
    build=DeiT,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {"size": 64, "patch": 16, "channels": 48, "depth": 2, "heads": 6, "mlp_ratio": 2.0, "classes": 10}
        ),
        "readme": Preset({"size": 224}),
        "small": Preset({"size": 224, "channels": 384, "heads": 6}),
        "base": Preset({"size": 224, "channels": 768, "heads": 12}),
    },
    variants={
        "vit": Preset(
            {"size": 32, "patch": 8, "channels": 32, "depth": 2, "heads": 4, "distilled": False, "classes": 10}
        ),
    },
    checkpoint={
        r"^patch_embed\.proj\.": "embed.",
        r"\.attn\.": ".attention.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
