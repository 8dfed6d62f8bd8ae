"""Normalisation-based attention: the scale factors of a batch norm say how much each channel or pixel matters.

y = x * sigmoid(norm(x) * |γ_c| / Σ |γ|)      b c h w, batch norm with a scale γ_c for each channel
z = y * sigmoid(norm(y) * |λ_p| / Σ |λ|)      b c h w, batch norm with a scale λ_p for each pixel
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class NormalizationAttention(nn.Module):
    """A gate on channels and, if ``size`` is given, one on pixels behind it.

    Args:
        channels: of the map.
        size: its height and width, which the gate on pixels needs; None leaves that gate out.

    Raises:
        ValueError: ``channels`` or a side is not positive.
    """

    def __init__(self, channels: int = 32, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        if channels < 1 or (size and min(size) < 1):
            raise ValueError(f"channels and size must be positive; they are {channels} and {size}")
        self.channels = channels
        self.channel_norm = nn.BatchNorm2d(channels)
        self.pixel_norm = nn.BatchNorm1d(size[0] * size[1]) if size else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate the channels, then the pixels."""
        share = _share(self.channel_norm.weight)
        x = x * torch.sigmoid(self.channel_norm(x) * share[:, None, None])
        if self.pixel_norm is None:
            return x
        pixels = x.flatten(2)
        normed = self.pixel_norm(pixels.transpose(1, 2)).transpose(1, 2)
        gated = pixels * torch.sigmoid(normed * _share(self.pixel_norm.weight))
        return gated.reshape(-1, self.channels, *x.shape[2:])


def _share(scale: Tensor) -> Tensor:
    """Return what part of all scales each one has."""
    size = scale.abs()
    return size / size.sum()


MECHANISM = Spec(
    paper=Paper("NAM: Normalization-based Attention Module", "Liu et al.", "NeurIPS 2021 workshop", "2111.12419"),
    build=NormalizationAttention,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 6, "w": 7}),
        "readme": Preset({"channels": 512}, {"h": 7, "w": 7}),
    },
    variants={
        "pixels": Preset({"channels": 8, "size": (5, 6)}, {"h": 5, "w": 6}, dynamic=(Dim("b"),)),
    },
)
