"""Eight bits for a real number: x ≈ scale · (code − zero point), and zero itself is always met exactly.

Activations have one scale for a tensor: uint8 with a zero point, or symmetric int8. Weights are symmetric int8 with one
scale for each output channel, or one for all; −128 is never used, so that a weight and its negative are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attn_export.types import Array

#: The largest code of a weight, and of a symmetric activation.
TOP = 127
#: Levels above the lowest of uint8.
STEPS = 255
#: The least scale: below it products of two scales would leave the normal numbers of float32.
LEAST = 2.0**-60


@dataclass(frozen=True)
class Code:
    """How one tensor of activations is rounded.

    Attributes:
        scale: of one step, a float32.
        zero_point: the code of zero.
        unsigned: whether codes are uint8, else int8.
    """

    scale: float
    zero_point: int = 0
    unsigned: bool = False

    @property
    def low(self) -> float:
        """The smallest number that is met."""
        return self.scale * ((0 if self.unsigned else -TOP - 1) - self.zero_point)

    @property
    def high(self) -> float:
        """The largest number that is met."""
        return self.scale * ((STEPS if self.unsigned else TOP) - self.zero_point)


def code(low: float, high: float, *, unsigned: bool) -> Code:
    """Choose the code whose steps cover the numbers from ``low`` to ``high``, and zero.

    >>> code(0.0, 2.55, unsigned=True).zero_point, code(-1.0, 2.0, unsigned=True).zero_point
    (0, 85)
    >>> code(-1.0, 0.5, unsigned=False)
    Code(scale=0.007874015718698502, zero_point=0, unsigned=False)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if not unsigned:
        return Code(_scale(max(-low, high) / TOP))
    scale = _scale((high - low) / STEPS)
    return Code(scale, int(np.clip(np.rint(-low / scale), 0, STEPS)), unsigned=True)


def _scale(value: float) -> float:
    """Give the float32 of a step; of a tensor that is always zero any will do."""
    return float(np.float32(value)) if value >= LEAST else 1.0


def rounded(values: Array, by: Code) -> Array:
    """Round numbers to the nearest that have a code, as QuantizeLinear and DequantizeLinear do.

    >>> rounded(np.float32([-9.0, 0.004, 0.3]), code(0.0, 1.0, unsigned=True)).round(3)
    array([0.   , 0.004, 0.298], dtype=float32)
    """
    scale = np.float32(by.scale)
    least, most = (0, STEPS) if by.unsigned else (-TOP - 1, TOP)
    codes = np.clip(np.rint(values / scale) + by.zero_point, least, most) - by.zero_point
    return np.asarray(codes * scale, np.float32)


def weight_scales(rows: Array, *, per_channel: bool) -> Array:
    """Choose the scales of a weight ``out in``, one for each row: where none of it is clipped."""
    largest = np.abs(rows).max(1, initial=0.0)
    if not per_channel:
        largest = np.full_like(largest, largest.max(initial=0.0))
    scales = largest.astype(np.float64) / TOP
    return np.where(scales >= LEAST, scales, 1.0).astype(np.float32)


def weight_codes(rows: Array, scales: Array) -> Array:
    """Round a weight ``out in`` to the nearest codes, int8."""
    return np.clip(np.rint(rows / scales[:, None]), -TOP, TOP).astype(np.int8)
