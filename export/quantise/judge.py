"""How far a model is from another on the same inputs: in dB against what varies, of the median case, worst output.

What the bundle is held to is measured on the device side (``deploy_tests.parity.centred``), on other cases; here the
same figure chooses between models while they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from attn_export.export.graph.index import GraphIndex
from attn_export.export.quantise.watch import looked
from attn_export.types import Array, Feeds

#: Decibels of a model that errs nowhere.
MOST = 400.0


@dataclass(frozen=True)
class Kept:
    """What a model keeps, in dB, for the output that comes off worst.

    Attributes:
        median: of the case in the middle: what is asked for.
        sure: what the median of other such cases is at least, in five of six draws: half the square root of their
            number of cases below the middle one. Layers are chosen by this, or what was chosen by luck fails elsewhere.
        low: the mean of the half of them that come off worst: what models are compared by. The luck of one case moves
            it less, and the many decibels of cases that are easy do not enter.
    """

    median: float
    sure: float
    low: float


class Judge:
    """Holds what a float32 model gives for some cases, and measures others against it."""

    def __init__(self, model: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
        graph = GraphIndex(model)
        self.names = [port.name for port in model.graph.output if graph.computed(port.name)]
        self.feeds = feeds
        self._truth = self._outputs(model)

    def _outputs(self, model: onnx.ModelProto) -> list[dict[str, Array]]:
        return list(looked(model, self.names, self.feeds))

    def kept(self, model: onnx.ModelProto) -> Kept:
        """Measure a model."""
        return centred(self._truth, self._outputs(model))


def centred(truth: Sequence[Mapping[str, Array]], came: Iterable[Mapping[str, Array]]) -> Kept:
    """Give the signal-to-noise ratios of all cases, for the output where they are least.

    The signal of a case is what it differs by from the mean of all cases of its shape. An output that never varies, or
    holds no floating-point numbers, is not judged; without any other the ratio is that of no error.

    >>> truth = [{"y": np.float32([1.0])}, {"y": np.float32([3.0])}]
    >>> round(centred(truth, [{"y": np.float32([1.1])}, {"y": np.float32([3.1])}]).median, 2)
    20.0
    >>> round(centred(truth, [{"y": np.float32([2.0])}, {"y": np.float32([2.0])}]).low, 2)
    0.0
    """
    pairs = list(zip(truth, came, strict=True))
    medians, sures, lows = [MOST], [MOST], [MOST]
    for name in truth[0] if truth else ():
        told: list[float] = []
        for shape in {one[name].shape for one in truth}:
            same = [(one[name], other[name]) for one, other in pairs if one[name].shape == shape]
            told += ratios([a for a, _ in same], [b for _, b in same])
        if told:
            told.sort()
            medians.append(float(np.median(told)))
            sures.append(told[round(max(0.0, (len(told) - 1) / 2 - len(told) ** 0.5 / 2))])
            lows.append(float(np.mean(told[: (len(told) + 1) // 2])))
    return Kept(min(medians), min(sures), min(lows))


def ratios(truth: Sequence[Array], came: Sequence[Array]) -> list[float]:
    """Give the ratio of each case in dB, of one output and one shape; none where nothing varies."""
    if truth[0].dtype.kind != "f":
        return []
    real = np.stack(truth).astype(np.float64).reshape(len(truth), -1)
    noise = np.square(np.stack(came).astype(np.float64).reshape(len(truth), -1) - real).sum(1)
    signal = np.square(real - real.mean(0)).sum(1)
    if not signal.any() or not np.isfinite(signal).all():
        return []
    with np.errstate(divide="ignore"):
        decibels = 10 * (np.log10(np.maximum(signal, np.finfo(np.float64).tiny)) - np.log10(noise))
    return [float(value) for value in np.clip(np.nan_to_num(decibels, nan=-MOST), -MOST, MOST)]
