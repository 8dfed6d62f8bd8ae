"""Global filter: multiply the spectrum of each channel by learned complex numbers.

X = rfft2(x)            b h f c, orthonormal, f = w // 2 + 1
y = irfft2(X * K)       b n c, n = h w, K complex h f c
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.dft import RealDFT2d
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class GlobalFilter(nn.Module):
    """A circular convolution as large as the map, by the convolution theorem.

    Args:
        channels: of the tokens.
        height: rows of the map that the tokens are, row by row.
        width: columns of that map.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(self, channels: int = 16, height: int = 8, width: int = 8) -> None:
        positive(channels=channels)
        super().__init__()
        self.map = (height, width, channels)
        self.dft = RealDFT2d(height, width, channels_last=True)
        self.weight = nn.Parameter(torch.randn(height, width // 2 + 1, channels, 2) * 0.02)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Filter the map."""
        y = self.dft.filter(x.reshape(-1, *self.map), self.weight[..., 0], self.weight[..., 1])
        return y.flatten(1, 2)


MECHANISM = Spec(
    paper=Paper("Global Filter Networks for Image Classification", "Rao et al.", "NeurIPS 2021", "2107.00645"),
    build=GlobalFilter,
    inputs=(Input("x", ("b", "n", "channels")),),
    presets={
        "test": Preset({"channels": 16, "height": 8, "width": 7}, {"n": 56}),
        "readme": Preset({"channels": 384, "height": 14, "width": 14}, {"n": 196}),
    },
    checkpoint={r"complex_weight$": "weight"},
)
