"""How far a model is from another on the same inputs: in dB against what varies, of the median case, worst output.

What the bundle is held to is measured on the device side (``deploy_tests.parity.centred``), on other cases; here the
same figure chooses between models while they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from attn_export.export.graph.index import GraphIndex
from attn_export.export.quantise.watch import looked
from attn_export.types import Array, Feeds

#: Decibels of a model that errs nowhere.
MOST = 400.0


class Judge:
    """Holds what a float32 model gives for some cases, and measures others against it."""

    def __init__(self, model: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
        graph = GraphIndex(model)
        self.names = [port.name for port in model.graph.output if graph.computed(port.name)]
        self.feeds = feeds
        self._truth = self._outputs(model)

    def _outputs(self, model: onnx.ModelProto) -> list[dict[str, Array]]:
        return list(looked(model, self.names, self.feeds))

    def snr(self, model: onnx.ModelProto) -> float:
        """Measure a model: the output that comes off worst, of the case in the middle."""
        return centred_snr(self._truth, self._outputs(model))


def centred_snr(truth: Sequence[Mapping[str, Array]], came: Iterable[Mapping[str, Array]]) -> float:
    """Give the signal-to-noise ratio in dB of the median case, for the output where it is least.

    The signal of a case is what it differs by from the mean of all cases of its shape. An output that never varies, or
    holds no floating-point numbers, is not judged; without any other the ratio is that of no error.

    >>> truth = [{"y": np.float32([1.0])}, {"y": np.float32([3.0])}]
    >>> round(centred_snr(truth, [{"y": np.float32([1.1])}, {"y": np.float32([3.1])}]), 2)
    20.0
    >>> round(centred_snr(truth, [{"y": np.float32([2.0])}, {"y": np.float32([2.0])}]), 2)
    0.0
    """
    pairs = list(zip(truth, came, strict=True))
    found = []
    for name in truth[0] if truth else ():
        told: list[float] = []
        for shape in {one[name].shape for one in truth}:
            same = [(one[name], other[name]) for one, other in pairs if one[name].shape == shape]
            told += ratios([a for a, _ in same], [b for _, b in same])
        if told:
            found.append(float(np.median(told)))
    return min(found, default=MOST)


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
