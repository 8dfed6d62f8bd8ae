"""Double attention (A²-Net): gather features of the whole map into a few descriptors, hand them out to the pixels.

A, B, V = Wa x, Wb x, Wv x               b m hw, b n hw, b n hw
G = A softmax_hw(B)ᵀ                     b m n, n descriptors
z = G softmax_n(V)                       b m hw
y = x + Wz z                             b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class DoubleAttention(nn.Module):
    """Gather, then distribute.

    Args:
        channels: of the map.
        features: channels of what is gathered, ``m`` in the paper.
        descriptors: how many vectors are gathered, ``n`` in the paper.
        residual: add ``x``, as the paper's block does.

    Raises:
        ValueError: a number is not positive.
    """

    def __init__(self, channels: int = 32, features: int = 16, descriptors: int = 8, residual: bool = True) -> None:
        super().__init__()
        if min(channels, features, descriptors) < 1:
            raise ValueError(
                f"channels, features and descriptors must be positive; they are {channels}, {features}, {descriptors}"
            )
        self.feature = nn.Conv2d(channels, features, 1)
        self.gather = nn.Conv2d(channels, descriptors, 1)
        self.distribute = nn.Conv2d(channels, descriptors, 1)
        self.project = nn.Conv2d(features, channels, 1)
        self.residual = residual

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Give each pixel its mixture of the descriptors."""
        where = torch.softmax(self.gather(x).flatten(2), -1)
        which = torch.softmax(self.distribute(x).flatten(2), 1)
        descriptors = self.feature(x).flatten(2) @ where.transpose(1, 2)
        z = (descriptors @ which).reshape(-1, descriptors.shape[1], *x.shape[2:])
        y: Tensor = self.project(z)
        return x + y if self.residual else y


MECHANISM = Spec(
    paper=Paper("A²-Nets: Double Attention Networks", "Chen et al.", "NIPS 2018", "1810.11579"),
    build=DoubleAttention,
    tasks=("classification", "video"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "features": 16, "descriptors": 8}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512, "features": 128, "descriptors": 128}, {"h": 7, "w": 7}),
    },
    variants={"bare": Preset({"channels": 32, "residual": False}, {"h": 7, "w": 9})},
    sources={
        "external-attention": Source(
            "External-Attention-pytorch",
            shown_by=(r"^convA\.", r"^convB\.", r"^convV\."),
            refused="its softmaxes run over the batch, so what an image gives depends on the images beside it, and a"
            " single image is not attended to at all",
        ),
        "paper": Source(
            "the same names around the paper's softmaxes, over pixels and over descriptors",
            shown_by=(r"^convA\.", r"^convB\.", r"^convV\."),
            only_asked=True,
        ),
    },
    checkpoint={
        r"^convA\.": "feature.",
        r"^convB\.": "gather.",
        r"^convV\.": "distribute.",
        r"^conv_reconstruct\.": "project.",
    },
)
