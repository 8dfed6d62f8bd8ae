"""TNT: a transformer within each patch of an image, and one over the patches that reads its pixels. Logits.

u = C ∗ patch + position                        b·n k d, k pixels of each of n patches; C is 7 × 7, within the patch
x = [class; LN(W LN [u of all pixels])] + position      b 1+n c
u = u + A(LN u);  u = u + MLP(LN u)
x = x + [0; LN(W LN [u of all pixels])]
x = x + A(LN x);  x = x + MLP(LN x)             depth times;  y = W LN(x)_0

The weights released first have W [LN u] + b for LN(W LN [u]), and C looks beyond the patch.
"""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.nested_block import Joined, NestedBlock
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.token_attention import TokenAttention
from attn_export.mechanisms._layers.windows import partition
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class TNT(nn.Module):
    """A classifier of square images; the defaults are TNT-S.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        stride: between the pixels that are kept of a patch.
        channels: of the tokens.
        inner: channels of the pixels.
        depth: number of blocks.
        heads: of the tokens' attention.
        inner_heads: of the pixels' attention.
        mlp_ratio: width of the MLPs over the channels.
        bias: of queries, keys and values.
        legacy: the network as it was released first (timm's ``tnt_s_legacy``).
        classes: outputs.

    Raises:
        ValueError: ``patch`` does not divide ``size``, ``stride`` not ``patch``, or heads not channels.
    """

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        stride: int = 4,
        channels: int = 384,
        inner: int = 24,
        depth: int = 12,
        heads: int = 6,
        inner_heads: int = 4,
        mlp_ratio: float = 4.0,
        bias: bool = False,
        legacy: bool = False,
        classes: int = 1000,
    ) -> None:
        positive(size=size, patch=patch, stride=stride, depth=depth, classes=classes)
        positive(channels=channels, inner=inner, heads=heads, inner_heads=inner_heads)
        super().__init__()
        if size % patch or patch % stride:
            raise ValueError(f"patch must divide size, and stride patch; got {size}, {patch} and {stride}")
        self.patch, self.legacy, self.patches = patch, legacy, (size // patch) ** 2
        self.side, pixels = patch // stride, (patch // stride) ** 2
        self.embed = nn.Conv2d(3, inner, 7, stride, 3)
        self.inner_pos = nn.Parameter(torch.randn(1, pixels, inner) * 0.02)
        self.outer_pos = nn.Parameter(torch.randn(1, self.patches + 1, channels) * 0.02)
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.joined = Joined(pixels, inner, channels, bias=True)
        self.blocks = nn.ModuleList(
            NestedBlock(
                PreNormBlock(inner, TokenAttention(inner, inner_heads, bias), mlp_ratio),
                Joined(pixels, inner, channels, bias=False, legacy=legacy),
                PreNormBlock(channels, TokenAttention(channels, heads, bias), mlp_ratio),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        u = self._pixels(image) + self.inner_pos
        x = self.joined(u, self.patches)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) + self.outer_pos
        for block in self.blocks:
            u, x = block(u, x)
        y: Tensor = self.head(self.norm(x[:, 0]))
        return y

    def _pixels(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "bn k d"]:
        if self.legacy:
            return partition(self.embed(image).permute(0, 2, 3, 1), self.side, self.side).flatten(0, 1)
        squares = partition(image.permute(0, 2, 3, 1), self.patch, self.patch).reshape(-1, self.patch, self.patch, 3)
        cut: Tensor = self.embed(squares.permute(0, 3, 1, 2))
        return cut.flatten(2).transpose(1, 2)


def _qkv_together(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the projections to queries and keys with those to values; give timm's names those of the authors."""
    named = {name: value for name, value in state.items() if not re.search(r"\.(qk|v)\.", name)}
    for name in state.keys() - named.keys():
        if ".qk." in name:
            named[name.replace(".qk.", ".qkv.")] = torch.cat((state[name], state[name.replace(".qk.", ".v.")]))
    if "pixel_pos" in state:
        named["pixel_pos"] = state["pixel_pos"].flatten(2).transpose(1, 2)
    return named


MECHANISM = Spec(
    paper=Paper("Transformer in Transformer", "Han et al.", "NeurIPS 2021", "2103.00112"),
    build=TNT,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset({"size": 64, "channels": 48, "inner": 16, "depth": 2, "classes": 10}),
        "readme": Preset({"size": 224}),
        "base": Preset({"size": 224, "channels": 640, "inner": 40, "heads": 10}),
        "legacy": Preset({"size": 224, "legacy": True}),
    },
    variants={
        "first": Preset({"size": 32, "channels": 24, "inner": 8, "depth": 1, "legacy": True, "classes": 10}),
    },
    convert=_qkv_together,
    checkpoint={
        r"^outer_tokens$": None,
        r"^(patch|pixel)_embed\.proj\.": "embed.",
        r"^patch_pos$": "outer_pos",
        r"^pixel_pos$": "inner_pos",
        r"\bproj_norm([12])\.": r"joined.norm\1.",
        r"\bnorm([12])_proj\.": r"joined.norm\1.",
        r"^(blocks\.\d+\.|)proj\.": r"\1joined.proj.",
        r"\.(inner|outer)_norm([12])\.": r".\1.norm\2.",
        r"\.(inner|outer)_attn\.": r".\1.attention.",
        r"\.(inner|outer)_mlp\.": r".\1.mlp.",
        r"\.norm_in\.": ".inner.norm1.",
        r"\.norm_mlp_in\.": ".inner.norm2.",
        r"\.norm_out\.": ".outer.norm1.",
        r"\.norm_mlp\.": ".outer.norm2.",
        r"\.attn_in\.": ".inner.attention.",
        r"\.attn_out\.": ".outer.attention.",
        r"\.mlp_in\.": ".inner.mlp.",
        r"^(blocks\.\d+)\.mlp\.": r"\1.outer.mlp.",
        r"\.fc1\.": ".0.",
        r"\.fc2\.": ".2.",
    },
)
