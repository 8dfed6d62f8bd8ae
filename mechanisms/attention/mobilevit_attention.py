"""MobileViT block: convolutions see the neighbourhood, a transformer the pixels of one position in every patch.

u = conv1(silu(BN(conv_k x)))                               b d h w
t = transformer over the n patches, for each of the p² positions      b p² n d
y = silu(BN(conv_k [x; silu(BN(conv1 fold(t)))]))           b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.patch_transformer import Transformer
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class MobileViTBlock(nn.Module):
    """A drop-in for a convolution with a global view.

    Args:
        channels: of the map.
        dim: channels of the tokens.
        kernel: of the local convolutions.
        patch: side of a patch.
        depth: layers of the transformer.
        heads: heads of its attention.
        d_head: channels of a head; None is ``dim // heads``.
        hidden: width of its MLP; None is ``2 * dim``.
        plain: convolutions with a bias in place of batch norm and SiLU, and no norm after the transformer: the form
            of External-Attention-pytorch.
        qkv_bias: of queries, keys and values, as every released MobileViT has it; the paper has no such formula.

    Raises:
        ValueError: ``kernel`` is even, or ``heads`` does not divide ``dim`` and ``d_head`` is None.
    """

    def __init__(
        self,
        channels: int = 8,
        dim: int = 16,
        kernel: int = 3,
        patch: int = 2,
        depth: int = 2,
        heads: int = 4,
        d_head: int | None = None,
        hidden: int | None = None,
        plain: bool = False,
        qkv_bias: bool = False,
    ) -> None:
        positive(channels=channels, dim=dim, kernel=kernel, patch=patch, depth=depth, heads=heads)
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, or the map would change its size; it is {kernel}")
        if d_head is None and dim % heads:
            raise ValueError(f"heads must divide dim unless d_head is given; {heads} does not divide {dim}")
        self.patch = patch
        self.local = _convolution(channels, channels, kernel, plain)
        self.widen = nn.Conv2d(channels, dim, 1, bias=plain)
        self.transformer = Transformer(dim, depth, heads, d_head or dim // heads, hidden or 2 * dim, qkv_bias)
        self.norm = nn.Identity() if plain else nn.LayerNorm(dim)
        self.narrow = _convolution(dim, channels, 1, plain)
        self.fuse = _convolution(2 * channels, channels, kernel, plain)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Look near and far, and fuse both with ``x``."""
        u = self.widen(self.local(x))
        b, d, h, w = u.shape
        p, columns = self.patch, w // self.patch
        # Two 4-D transposes each way: a patch's rows are brought together, then its positions to the front.
        tiles = u.reshape(-1, p, columns, p).transpose(1, 2)
        tokens = tiles.reshape(b, d, -1, p * p).permute(0, 3, 2, 1)
        tokens = self.norm(self.transformer(tokens)).permute(0, 3, 2, 1)
        folded = tokens.reshape(-1, columns, p, p).transpose(1, 2).reshape(b, d, h, w)
        y: Tensor = self.fuse(torch.cat((x, self.narrow(folded)), 1))
        return y


def _convolution(inputs: int, outputs: int, kernel: int, plain: bool) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=plain)
    return convolution if plain else nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


MECHANISM = Spec(
    paper=Paper(
        "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer",
        "Mehta and Rastegari",
        "ICLR 2022",
        "2110.02178",
    ),
    build=MobileViTBlock,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", step=2, min=2), Dim("w", step=2, min=2)),
    presets={
        "test": Preset({"channels": 8, "dim": 16, "patch": 2}, {"h": 6, "w": 4}),
        "readme": Preset(
            {"channels": 3, "dim": 512, "patch": 7, "depth": 3, "heads": 8},
            {"h": 28, "w": 28},
            dynamic=(Dim("b"), Dim("h", step=7, min=7), Dim("w", step=7, min=7)),
        ),
    },
    variants={
        "plain": Preset(
            {"channels": 8, "dim": 12, "depth": 3, "heads": 8, "d_head": 64, "hidden": 1024, "plain": True},
            {"h": 6, "w": 4},
        ),
    },
    sources={
        "external-attention": Source(
            "External-Attention-pytorch, with plain convolutions and a transformer of fixed size",
            shown_by=(r"^conv1\.", r"^trans\.layers\.0\."),
            arguments={"plain": True, "depth": 3, "heads": 8, "d_head": 64, "hidden": 1024},
        ),
    },
    checkpoint={
        r"^conv1\.": "local.",
        r"^conv2\.": "widen.",
        r"^trans\.": "transformer.",
        r"^conv3\.": "narrow.",
        r"^conv4\.": "fuse.",
        r"(layers\.\d+)\.0\.ln\.": r"\1.norm1.",
        r"(layers\.\d+)\.0\.fn\.to_qkv\.": r"\1.qkv.",
        r"(layers\.\d+)\.0\.fn\.to_out\.0\.": r"\1.out.",
        r"(layers\.\d+)\.1\.ln\.": r"\1.norm2.",
        r"(layers\.\d+)\.1\.fn\.net\.0\.": r"\1.mlp.0.",
        r"(layers\.\d+)\.1\.fn\.net\.3\.": r"\1.mlp.2.",
    },
)
