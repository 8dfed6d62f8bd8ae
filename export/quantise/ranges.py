"""Which numbers of a tensor the codes are to cover: seen on calibration data, and chosen by one of four rules.

    minmax      all that was seen
    percentile  all but the outermost 0.01 % of each side
    mse         the range with the least mean squared error of rounding and clipping together
    entropy     the range whose rounded distribution tells most about the true one (Kullback-Leibler), as TensorRT's
                calibration does (S. Migacz, 8-bit inference with TensorRT, GTC 2017)

Data is streamed twice: for the ends, then for a histogram between them, so that no tensor need be kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attn_export.errors import ExportError
from attn_export.export.quantise.codes import STEPS, TOP, code, rounded
from attn_export.types import Array

#: Bins of a histogram: sixteen for each step of a code that covers all of it.
BINS = 16 * (STEPS + 1)
#: What is left outside on each side by ``percentile``.
OUTSIDE = 1e-4
#: Ranges that are tried, as shares of all that was seen.
SHARES = tuple(np.geomspace(1.0, 0.125, 60).tolist())


@dataclass(frozen=True)
class Histogram:
    """How the values of one tensor lie.

    Attributes:
        low: the smallest, or 0.
        high: the largest, or 0.
        counts: of ``BINS`` bins of one width between them.
    """

    low: float
    high: float
    counts: Array

    @property
    def centres(self) -> Array:
        """The middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (np.arange(len(self.counts)) + 0.5)


#: Gives the tensors of every calibration case anew each time it is called.
Stream = Callable[[], Iterable[Mapping[str, Array]]]


def histograms(stream: Stream, names: Sequence[str]) -> dict[str, Histogram]:
    """Make the histogram of each tensor over all calibration cases.

    Raises:
        ExportError: there are no cases, or a tensor has NaN or infinite values.
    """
    ends: dict[str, tuple[float, float]] = {}
    for values in stream():
        for name in names:
            low, high = ends.get(name, (0.0, 0.0))
            array = values[name]
            if not array.size:
                continue
            least, most = float(array.min()), float(array.max())
            if not math.isfinite(least + most):
                raise ExportError(f"calibration data makes {name!r} NaN or infinite; leave out the file that does")
            ends[name] = min(low, least), max(high, most)
    if missing := [name for name in names if name not in ends]:
        raise ExportError(f"expected calibration data that reaches every layer, got no value of {missing[0]!r}")
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for values in stream():
        for name in names:
            low, high = ends[name]
            if high > low:
                counts[name] += np.histogram(values[name], BINS, (low, high))[0]
    return {name: Histogram(*ends[name], counts[name]) for name in names}


def minmax(seen: Histogram, *, unsigned: bool) -> tuple[float, float]:
    """Cover all that was seen."""
    del unsigned
    return seen.low, seen.high


def percentile(seen: Histogram, *, unsigned: bool, outside: float = OUTSIDE) -> tuple[float, float]:
    """Cover all but a share of ``outside`` on each side."""
    del unsigned
    total = seen.counts.sum()
    if not total:
        return seen.low, seen.high
    below = np.cumsum(seen.counts) / total
    width = (seen.high - seen.low) / len(seen.counts)
    first = int(np.searchsorted(below, outside, side="right"))
    last = int(np.searchsorted(below, 1 - outside))
    return min(0.0, seen.low + width * first), max(0.0, seen.low + width * (last + 1))


def mse(seen: Histogram, *, unsigned: bool) -> tuple[float, float]:
    """Cover the range with the least mean squared error, of a grid of ranges that shrink alike on both sides."""
    centres, counts = seen.centres, seen.counts.astype(np.float64)

    def error(pair: tuple[float, float]) -> float:
        return float(counts @ (rounded(centres, code(*pair, unsigned=unsigned)) - centres) ** 2)

    return min(_grid(seen), key=error)


def entropy(seen: Histogram, *, unsigned: bool) -> tuple[float, float]:
    """Cover the range whose rounded distribution is nearest to the true one."""
    if seen.low < seen.high:  # zeros are met by every code: they would drown what is asked
        counts = seen.counts.copy()
        counts[min(len(counts) - 1, int(-seen.low / (seen.high - seen.low) * len(counts)))] = 0
        seen = Histogram(seen.low, seen.high, counts)
    if not seen.counts.any():
        return seen.low, seen.high
    best, found = np.inf, (seen.low, seen.high)
    for low, high in _grid(seen):
        distance = _divergence(seen, low, high, levels=STEPS + 1 if unsigned else 2 * TOP + 1, signed=not unsigned)
        if distance < best:
            best, found = distance, (low, high)
    return found


def _divergence(seen: Histogram, low: float, high: float, *, levels: int, signed: bool) -> float:
    """Compute how far the rounded distribution is from the true one, whose outside is counted at its ends."""
    if signed:
        low, high = -max(-low, high), max(-low, high)
    centres, counts = seen.centres, seen.counts.astype(np.float64)
    inside = (centres >= low) & (centres <= high)
    true = counts[inside]
    if true.size < 2 or not true.any():
        return np.inf
    clipped = true.copy()
    clipped[0] += counts[centres < low].sum()
    clipped[-1] += counts[centres > high].sum()
    step = np.minimum(((centres[inside] - low) / (high - low) * levels).astype(np.int64), levels - 1)
    filled = true > 0
    mass = np.bincount(step, true, levels)
    bins = np.bincount(step[filled], minlength=levels)
    spread = np.where(filled, mass[step] / np.maximum(bins[step], 1), 0.0)
    p, q = clipped / clipped.sum(), spread / spread.sum()
    known = (p > 0) & (q > 0)
    lost = float(p[(p > 0) & (q == 0)].sum())  # what is clipped into an empty bin has no rounded counterpart
    return float(np.sum(p[known] * np.log(p[known] / q[known])) + lost * np.log(1 / 1e-4))


def _grid(seen: Histogram) -> Iterator[tuple[float, float]]:
    for share in SHARES:
        yield seen.low * share, seen.high * share


#: A rule: the range that codes are to cover, of what was seen.
Rule = Callable[..., tuple[float, float]]
RULES: Mapping[str, Rule] = {"minmax": minmax, "percentile": percentile, "mse": mse, "entropy": entropy}
