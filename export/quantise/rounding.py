"""Round the weights of a layer so that what it gives errs least, and not each weight by itself.

    least ‖W X − (Q X̂ + b)‖²     X: what the layer takes in float, X̂: what it takes once all before it is rounded

Weights are rounded column by column, and what a column loses is made up for by those that are still real (Hassibi and
Stork, Optimal Brain Surgeon, NIPS 1992; Frantar et al., GPTQ, ICLR 2023, section 3). Before that, least squares may
move them to where they make up for what X̂ lacks of X: a cure where activations lose much, and where they do not it fits
what little data there is. Both need X̂ X̂ᵀ and X X̂ᵀ alone, so data can be streamed. The mean of the error goes into the
bias, which costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from attn_export.export.quantise.codes import TOP
from attn_export.types import Array

#: What is added to the diagonal of X̂ X̂ᵀ, as a share of its mean, so that inputs that hardly move can be divided by.
DAMPING = 0.01
#: The same for moving weights: one of hundreds of inputs is not fitted to the few columns that some pictures give. On
#: five trained networks and 43 pictures 0.5 keeps 0.5 to 3.4 dB more than 0.01; from 0.3 to 2 it hardly matters.
MOVED_DAMPING = 0.5
#: Columns after which the others are told what was lost.
BLOCK = 128


@dataclass
class Moments:
    """Sums over calibration data of what a layer takes, in float and rounded.

    Attributes:
        size: inputs of one row of the weight.
        groups: parts of its rows, of which each has inputs of its own.
        count: how many columns were added.
        rounded, real: sums of X̂ and X, ``group in``.
        gram, cross: sums of X̂ X̂ᵀ and X X̂ᵀ, ``group in in``.
    """

    size: int
    groups: int = 1
    count: int = 0
    rounded: Array = field(init=False)
    real: Array = field(init=False)
    gram: Array = field(init=False)
    cross: Array = field(init=False)

    def __post_init__(self) -> None:
        one, two = (self.groups, self.size), (self.groups, self.size, self.size)
        self.rounded, self.real, self.gram, self.cross = (np.zeros(shape) for shape in (one, one, two, two))

    def add(self, rounded: Array, real: Array) -> None:
        """Add columns, ``group in n`` each; of one group ``in n`` will do."""
        rounded, real = (values.reshape(self.groups, self.size, -1) for values in (rounded, real))
        self.count += rounded.shape[2]
        self.rounded += rounded.sum(2, dtype=np.float64)
        self.real += real.sum(2, dtype=np.float64)
        turned = np.swapaxes(rounded, 1, 2)
        self.gram += rounded @ turned
        self.cross += real @ turned

    def centred(self) -> tuple[Array, Array]:
        """Give covariances of X̂ with itself, and of X with X̂."""
        n = max(1, self.count)
        mean, wide = self.rounded[:, None] / n, self.real[:, None] / n
        return self.gram / n - _turned(mean) * mean, self.cross / n - _turned(wide) * mean


def rounded_codes(weight: Array, scales: Array, moments: Moments, *, moved: bool = False) -> Array:
    """Choose int8 codes of a weight ``out in``, one scale for each row.

    With inputs that know nothing of each other this is rounding to the nearest:

    >>> m = Moments(2)
    >>> m.add(*2 * [np.float64([[1, -1, 0, 0], [0, 0, 1, -1]])])
    >>> rounded_codes(np.float64([[0.4, 1.6]]), np.float32([1.0]), m)
    array([[0, 2]], dtype=int8)

    Args:
        weight: float32 or float64.
        scales: of its rows, positive.
        moments: of what it is multiplied by.
        moved: whether least squares moves the weights first.
    """
    gram, cross = moments.centred()
    extent = np.trace(gram, axis1=1, axis2=2)[:, None, None] / moments.size
    same = np.eye(moments.size) * np.where(extent > 0, extent, 1.0)  # an input that never moves says nothing
    wanted = np.asarray(weight, np.float64).reshape(moments.groups, -1, moments.size)
    if moved:
        ridge = MOVED_DAMPING * same
        wanted = _turned(np.linalg.solve(gram + ridge, _turned(wanted @ (cross + ridge))))
    # Rows of the upper factor say how what one column loses is spread over those behind it.
    upper = _turned(np.linalg.cholesky(np.linalg.inv(gram + DAMPING * same)))
    return _spread(wanted, scales.astype(np.float64).reshape(moments.groups, -1), upper).reshape(weight.shape)


def _turned(values: Array) -> Array:
    return np.swapaxes(values, 1, 2)


def _spread(weight: Array, scales: Array, upper: Array) -> Array:
    """Round ``group out in`` column by column."""
    left, codes = weight.copy(), np.empty(weight.shape, np.int8)
    size = weight.shape[2]
    for start in range(0, size, BLOCK):
        end = min(size, start + BLOCK)
        lost = np.empty((*scales.shape, end - start))
        for column in range(start, end):
            code = np.clip(np.rint(left[:, :, column] / scales), -TOP, TOP)
            codes[:, :, column] = code
            now = (left[:, :, column] - code * scales) / upper[:, column, column, None]
            lost[:, :, column - start] = now
            left[:, :, column + 1 : end] -= now[:, :, None] * upper[:, None, column, column + 1 : end]
        left[:, :, end:] -= lost @ upper[:, start:end, end:]
    return codes


def bias_of(weight: Array, codes: Array, scales: Array, bias: Array, moments: Moments) -> Array:
    """Give the bias with which the mean of what the layer gives is what it is in float, ``out``."""
    n = max(1, moments.count)

    def mean(rows: Array, inputs: Array) -> Array:
        apart = rows.astype(np.float64).reshape(moments.groups, -1, moments.size)
        return np.asarray((apart @ inputs[:, :, None] / n).reshape(-1))

    now = mean(codes, moments.rounded) * scales.astype(np.float64)
    return np.asarray(bias.astype(np.float64) + mean(weight, moments.real) - now, np.float32)
