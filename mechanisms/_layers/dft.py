"""The orthonormal two-dimensional DFT of real maps and its inverse, as products with constant real matrices.

    X = F_h x F_w,  F_n[j, k] = exp(-2πi jk / n) / sqrt(n),  columns 0 … w // 2 of F_w

Spectra are pairs of real tensors. Runtimes without complex numbers or a DFT operator need nothing but MatMul.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from attn_export.mechanisms._layers.constant import Constants


class RealDFT2d(Constants):
    """What ``rfft2`` and ``irfft2`` do with ``norm="ortho"`` on maps of one fixed size.

    Args:
        height: rows of the map.
        width: columns of the map.
        channels_last: maps are ``... h w c`` rather than ``... h w``.

    Raises:
        ValueError: a size is not positive.
    """

    right: Tensor
    down: Tensor
    up: Tensor
    left: Tensor

    def __init__(self, height: int, width: int, channels_last: bool = False) -> None:
        super().__init__()
        if height < 1 or width < 1:
            raise ValueError(f"height and width must be positive; they are {height} and {width}")
        self.rows, self.columns = (-3, -2) if channels_last else (-2, -1)
        half = width // 2 + 1
        cos, sin = _waves(height, height)
        # The complex product along the rows on [real; imaginary] is one real product of twice the size.
        self.constant("down", torch.cat((torch.cat((cos, sin), 1), torch.cat((-sin, cos), 1))))
        self.constant("up", torch.cat((torch.cat((cos, -sin), 1), torch.cat((sin, cos), 1))))
        cos, sin = _waves(half, width)
        self.constant("right", torch.cat((cos, -sin)))
        # Every column but the first and, of an even width, the last stands for its mirror image too.
        twice = torch.full((half, 1), 2.0, dtype=torch.float64)
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        self.constant("left", torch.cat((twice * cos, -twice * sin)).T.contiguous())

    def forward(self, x: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Return the real and imaginary part of the half spectrum, ``w // 2 + 1`` columns wide."""
        real, imaginary = along(self.right, x, self.columns).chunk(2, self.columns)
        real, imaginary = along(self.down, torch.cat((real, imaginary), self.rows), self.rows).chunk(2, self.rows)
        return real, imaginary

    def inverse(self, real: Float[Tensor, "..."], imaginary: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the real map of a half spectrum; what cannot belong to a real map is ignored, as ``irfft2`` does."""
        parts = along(self.up, torch.cat((real, imaginary), self.rows), self.rows).chunk(2, self.rows)
        return along(self.left, torch.cat(parts, self.columns), self.columns)

    def filter(
        self, x: Float[Tensor, "..."], real: Float[Tensor, "..."], imaginary: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Multiply the spectrum of ``x`` by a complex filter (both parts broadcast) and come back."""
        a, b = self(x)
        return self.inverse(a * real - b * imaginary, a * imaginary + b * real)


def along(matrix: Float[Tensor, "m n"], x: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
    """Multiply axis -1, -2 or -3 of ``x`` (length ``n``) by ``matrix``."""
    if axis == -1:
        return x @ matrix.T
    if axis == -2:
        return matrix @ x
    return (matrix @ x.flatten(-2)).reshape(*x.shape[:-3], -1, *x.shape[-2:])


def _waves(frequencies: int, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines over ``sqrt(length)``, frequency by position; the phase is reduced before it is rounded."""
    turns = torch.arange(frequencies)[:, None] * torch.arange(length) % length
    phase = turns.double() * (2 * math.pi / length)
    return phase.cos() / math.sqrt(length), phase.sin() / math.sqrt(length)
