"""DeepViT: a vision transformer whose attention maps are mixed over the heads and stay different with depth. Logits.

A = softmax(q kᵀ / sqrt(d))                        b heads n n
y = W BN(M ∗ A) v                                  M: 1 × 1 over the heads
x = x + y(LN x);  x = x + MLP(LN x)                depth times
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import merge_heads, split_heads
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.token_attention import TokenAttention
from attn_export.mechanisms._layers.vit import ViT
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class ReAttention(TokenAttention):
    """Attention of all tokens to all, whose maps are mixed over the heads and normalised (paper, equation 3)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        self.mix = nn.Conv2d(heads, heads, 1)
        self.mix_norm = nn.BatchNorm2d(heads)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        maps = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), -1)
        y: Tensor = self.proj(merge_heads(self.mix_norm(self.mix(maps)) @ v))
        return y


class DeepViT(ViT):
    """A classifier of square images; the defaults are DeepViT-S.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the tokens.
        depth: number of blocks.
        heads: of the attention.
        mlp_ratio: width of the MLPs over ``channels``.
        classes: outputs.

    Raises:
        ValueError: ``patch`` does not divide ``size``, or ``heads`` not ``channels``.
    """

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        channels: int = 396,
        depth: int = 16,
        heads: int = 12,
        mlp_ratio: float = 3.0,
        classes: int = 1000,
    ) -> None:
        positive(channels=channels, depth=depth, heads=heads)
        blocks = (PreNormBlock(channels, ReAttention(channels, heads), mlp_ratio, epsilon=1e-6) for _ in range(depth))
        super().__init__(size, patch, channels, blocks, classes)


MECHANISM = Spec(
    paper=Paper("DeepViT: Towards Deeper Vision Transformer", "Zhou et al.", "arXiv 2021", "2103.11886"),
    build=DeepViT,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {"size": 64, "patch": 16, "channels": 48, "depth": 2, "heads": 4, "mlp_ratio": 2.0, "classes": 10}
        ),
        "readme": Preset({"size": 224}),
    },
    checkpoint={
        r"^patch_embed\.proj\.": "embed.",
        r"\.attn\.": ".attention.",
        r"reatten_matrix\.": "mix.",
        r"var_norm\.": "mix_norm.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
