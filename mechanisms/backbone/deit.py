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
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class DeiT(nn.Module):
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
        positive(size=size, patch=patch, channels=channels, depth=depth, heads=heads, classes=classes)
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size; {patch} does not divide {size}")
        count = (size // patch) ** 2
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.dist_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02) if distilled else None
        self.pos_embed = nn.Parameter(torch.randn(1, count + 1 + distilled, channels) * 0.02)
        blocks = (
            PreNormBlock(channels, TokenAttention(channels, heads), mlp_ratio, epsilon=1e-6) for _ in range(depth)
        )
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.head = nn.Linear(channels, classes)
        self.head_dist = nn.Linear(channels, classes) if distilled else None

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        patches = self.embed(image).flatten(2).transpose(1, 2)
        tokens = list[Tensor](token for token in (self.cls_token, self.dist_token) if token is not None)
        first = torch.cat(tokens, 1).expand(patches.shape[0], -1, -1)
        x = self.norm(self.blocks(torch.cat([first, patches], 1) + self.pos_embed))
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
