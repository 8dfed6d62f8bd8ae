"""CaiT: deep vision transformers whose heads talk, and a class token that only joins in the last blocks. Logits.

A = softmax(L (q kᵀ / sqrt(d)))                    b heads n n      L, W' mix the heads
x = x + a * W (W' A) v;  x = x + m * MLP(LN x)     the tokens of the image
c = c + a * attention of c to [c; x];  c = c + m * MLP(LN c)
y = W LN(c)                                        b classes
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.class_attention import ClassAttention, ClassBlock
from attn_export.mechanisms._layers.heads import merge_heads, split_heads
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.token_attention import TokenAttention
from attn_export.mechanisms._layers.vit import Patches
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class TalkingHeads(TokenAttention):
    """Attention whose logits and whose maps are mixed over the heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        self.proj_l, self.proj_w = nn.Linear(heads, heads), nn.Linear(heads, heads)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        logits = _over_heads(self.proj_l, (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1))
        y: Tensor = self.proj(merge_heads(_over_heads(self.proj_w, torch.softmax(logits, -1)) @ v))
        return y


def _over_heads(mix: nn.Linear, maps: Float[Tensor, "b h n m"]) -> Float[Tensor, "b h n m"]:
    """Mix the heads as channels of one matrix product."""
    mixed = mix.weight @ maps.flatten(2) + mix.bias[:, None]
    return mixed.reshape(maps.shape)


class CaiT(Patches):
    """A classifier of square images; the defaults are CaiT-XXS24.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the tokens.
        depth: blocks of the image's tokens.
        class_depth: blocks of the class token.
        heads: of the attention.
        mlp_ratio: width of the first blocks' MLPs over ``channels``; those of the class token are 4 times as wide.
        classes: outputs.

    Raises:
        ValueError: ``patch`` does not divide ``size``, or ``heads`` not ``channels``.
    """

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        channels: int = 192,
        depth: int = 24,
        class_depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        classes: int = 1000,
    ) -> None:
        positive(depth=depth, heads=heads, classes=classes)
        super().__init__(size, patch, channels)
        rest = {"epsilon": 1e-6, "scale": 1e-5}
        self.blocks = nn.Sequential(
            *(PreNormBlock(channels, TalkingHeads(channels, heads), mlp_ratio, **rest) for _ in range(depth))
        )
        self.class_blocks = nn.ModuleList(
            ClassBlock(channels, ClassAttention(channels, heads), **rest) for _ in range(class_depth)
        )
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.blocks(self.patches(image) + self.pos_embed)
        token = self.cls_token.expand(x.shape[0], -1, -1)
        for block in self.class_blocks:
            token = block(torch.cat((token, x), 1))
        y: Tensor = self.head(self.norm(token[:, 0]))
        return y


MECHANISM = Spec(
    paper=Paper("Going deeper with Image Transformers", "Touvron et al.", "ICCV 2021", "2103.17239"),
    build=CaiT,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset({"size": 64, "channels": 32, "depth": 2, "mlp_ratio": 2.0, "classes": 10}),
        "readme": Preset({"size": 224}),
        "s24": Preset({"size": 224, "channels": 384, "heads": 8}),
    },
    checkpoint={
        r"^patch_embed\.proj\.": "embed.",
        r"^blocks_token_only\.": "class_blocks.",
        r"\.attn\.": ".attention.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
