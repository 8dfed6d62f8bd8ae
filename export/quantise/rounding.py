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
        count: how many columns were added.
        rounded, real: sums of X̂ and X.
        gram, cross: sums of X̂ X̂ᵀ and X X̂ᵀ.
    """

    size: int
    count: int = 0
    rounded: Array = field(init=False)
    real: Array = field(init=False)
    gram: Array = field(init=False)
    cross: Array = field(init=False)

    def __post_init__(self) -> None:
        self.rounded, self.real = np.zeros(self.size), np.zeros(self.size)
        self.gram, self.cross = np.zeros((self.size, self.size)), np.zeros((self.size, self.size))

    def add(self, rounded: Array, real: Array) -> None:
        """Add columns, ``in n`` each."""
        self.count += rounded.shape[1]
        self.rounded += rounded.sum(1, dtype=np.float64)
        self.real += real.sum(1, dtype=np.float64)
        self.gram += rounded @ rounded.T
        self.cross += real @ rounded.T

    def centred(self) -> tuple[Array, Array]:
        """Give covariances of X̂ with itself, and of X with X̂."""
        n = max(1, self.count)
        mean, wide = self.rounded / n, self.real / n
        return self.gram / n - np.outer(mean, mean), self.cross / n - np.outer(wide, mean)


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
    extent = float(np.mean(np.diag(gram)))
    if not extent > 0:
        return _nearest(weight, scales).astype(np.int8)
    same = np.eye(moments.size) * extent
    wanted: Array = np.asarray(weight, np.float64)
    if moved:
        ridge = MOVED_DAMPING * same
        wanted = np.linalg.solve(gram + ridge, (wanted @ (cross + ridge)).T).T
    # Rows of the upper factor say how what one column loses is spread over those behind it.
    upper = np.linalg.cholesky(np.linalg.inv(gram + DAMPING * same)).T
    return _spread(wanted, scales.astype(np.float64), upper)


def _spread(weight: Array, scales: Array, upper: Array) -> Array:
    left, codes = weight.copy(), np.empty(weight.shape, np.int8)
    size = weight.shape[1]
    for start in range(0, size, BLOCK):
        end = min(size, start + BLOCK)
        lost = np.empty((len(weight), end - start))
        for column in range(start, end):
            code = np.clip(np.rint(left[:, column] / scales), -TOP, TOP)
            codes[:, column] = code
            lost[:, column - start] = (left[:, column] - code * scales) / upper[column, column]
            left[:, column + 1 : end] -= np.outer(lost[:, column - start], upper[column, column + 1 : end])
        left[:, end:] -= lost @ upper[start:end, end:]
    return codes


def _nearest(weight: Array, scales: Array) -> Array:
    return np.asarray(np.clip(np.rint(weight / scales[:, None]), -TOP, TOP))


def bias_of(weight: Array, codes: Array, scales: Array, bias: Array, moments: Moments) -> Array:
    """Give the bias with which the mean of what the layer gives is what it is in float, ``out``."""
    n = max(1, moments.count)
    was = weight.astype(np.float64) @ (moments.real / n)
    now = (codes.astype(np.float64) * scales.astype(np.float64)[:, None]) @ (moments.rounded / n)
    return np.asarray(bias.astype(np.float64) + was - now, np.float32)
