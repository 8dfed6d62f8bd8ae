"""Split depth-wise transpose attention: a cascade of depth-wise convolutions, then attention among channels.

x_1 … x_s = x;  y_i = dw_i(x_i + y_(i-1)),  y_s = x_s             groups of channels; the last one passes
t = [y_1 … y_s] + P                                               b n c, P of rows and columns, constant
t = t + γ₁ XCA(LN t)
y = x + γ₂ W2 gelu(W1 LN t)                                       b c h w
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.constant import Constants
from attn_export.mechanisms.attention.xca import CrossCovarianceAttention
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class SplitDepthwiseTransposeAttention(nn.Module):
    """The encoder block of EdgeNeXt that mixes widely.

    Args:
        channels: of the map.
        splits: groups of channels in the cascade; the last may be narrower.
        heads: of the attention among channels.
        expansion: width of the MLP over its channels.
        size: height and width of the map, if its positions are to be encoded.

    Raises:
        ValueError: ``splits`` is less than 2 or leaves its last group without channels.
    """

    def __init__(
        self,
        channels: int = 32,
        splits: int = 2,
        heads: int = 4,
        expansion: int = 4,
        size: tuple[int, int] | None = None,
    ) -> None:
        positive(expansion=expansion)
        super().__init__()
        width = -(-channels // splits) if splits > 0 else 0
        if splits < 2 or width * (splits - 1) >= channels:
            raise ValueError(f"splits must be at least 2 with channels for each; it is {splits} for {channels}")
        self.channels, self.widths = channels, [width] * (splits - 1) + [channels - width * (splits - 1)]
        self.cascade = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(splits - 1))
        self.position = FourierPosition(channels, size) if size else None
        self.attention_norm, self.mlp_norm = nn.LayerNorm(channels, 1e-6), nn.LayerNorm(channels, 1e-6)
        self.attention = CrossCovarianceAttention(channels, heads, qkv_bias=True)
        hidden = expansion * channels
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.attention_scale = nn.Parameter(torch.full((channels,), 1e-6))
        self.mlp_scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix pixels in each group, then channels over all pixels."""
        groups = torch.split(x, self.widths, 1)
        mixed: list[Tensor] = []
        for convolution, group in zip(self.cascade, groups[:-1], strict=True):
            mixed.append(convolution(group + mixed[-1] if mixed else group))
        maps = torch.cat([*mixed, groups[-1]], 1)
        if self.position is not None:
            maps = maps + self.position()
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention_scale * self.attention(self.attention_norm(tokens))
        added: Tensor = self.mlp_scale * self.mlp(self.mlp_norm(tokens))
        return x + added.transpose(1, 2).reshape(-1, self.channels, *x.shape[2:])


class FourierPosition(Constants):
    """Sines and cosines of rows and columns, counted from one and scaled to 2 π, projected to the channels."""

    waves: Tensor

    def __init__(self, channels: int, size: tuple[int, int], hidden: int = 32, temperature: float = 10000.0) -> None:
        super().__init__()
        self.project = nn.Conv2d(2 * hidden, channels, 1)
        period = temperature ** (2 * (torch.arange(hidden, dtype=torch.float64) // 2) / hidden)

        def waves(length: int) -> Tensor:
            place = torch.arange(1, length + 1, dtype=torch.float64) / (length + 1e-6) * 2 * math.pi
            angles = place[:, None] / period
            return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), 2).flatten(1)  # length hidden

        h, w = size
        rows = waves(h)[:, None].expand(h, w, hidden)
        columns = waves(w)[None].expand(h, w, hidden)
        self.constant("waves", torch.cat((rows, columns), 2).permute(2, 0, 1).unsqueeze(0).contiguous())

    def forward(self) -> Float[Tensor, "1 c h w"]:
        """Return what is added to a map; no input takes part, so exporters fold it."""
        y: Tensor = self.project(self.waves)
        return y


MECHANISM = Spec(
    paper=Paper(
        "EdgeNeXt: Efficiently Amalgamated CNN-Transformer Architecture for Mobile Vision Applications",
        "Maaz et al.",
        "ECCVW 2022",
        "2206.10589",
    ),
    build=SplitDepthwiseTransposeAttention,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 6, "w": 7}),
        "readme": Preset({"channels": 160, "splits": 3, "heads": 8}, {"h": 14, "w": 14}),
    },
    variants={
        "position": Preset({"channels": 16, "splits": 3, "size": (4, 5)}, {"h": 4, "w": 5}, dynamic=(Dim("b"),)),
    },
)
