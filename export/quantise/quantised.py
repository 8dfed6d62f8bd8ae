"""What is asked of the quantiser, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import onnx

#: What a layer computes in.
INT8, FLOAT = "int8", "float"


@dataclass(frozen=True)
class Wish:
    """What the result is to hold, and what the target takes.

    Attributes:
        least_snr: the signal-to-noise ratio of the median case against the centred reference, in dB; layers go back to
            float32 until it holds. None leaves all in int8.
        unsigned: whether activations may be uint8 with a zero point; else they are symmetric int8, as TensorRT's.
        per_channel: whether weights have a scale for each output channel; else one for the whole tensor.
        levels: whether channels of one tensor may be brought to more equal ranges, by exact powers of two.
    """

    least_snr: float | None = None
    unsigned: bool = True
    per_channel: bool = True
    levels: bool = True


@dataclass(frozen=True)
class Ratio:
    """How many times as long one model takes as another, with an interval of 95 %."""

    value: float
    low: float
    high: float


class Clock(Protocol):
    """What measures time, where it is to be measured."""

    def ratio(self, candidate: onnx.ModelProto, baseline: onnx.ModelProto) -> Ratio | None:
        """Compare two models in turns; None where this machine, now, cannot."""

    def costs(self, model: onnx.ModelProto) -> Mapping[str, float]:
        """Measure the seconds that the nodes of a model take, by their names."""


@dataclass(frozen=True)
class Site:
    """One layer that could compute in int8.

    Attributes:
        node: its name in the graph.
        op: its operator.
        form: ``int8`` or ``float``.
        reason: why it is in float; empty for int8.
    """

    node: str
    op: str
    form: str
    reason: str = ""


@dataclass(frozen=True)
class Point:
    """One model that was measured on the way.

    Attributes:
        label: what distinguishes it.
        snr_db: of the median held-out case, in dB.
        ratio: its time as a multiple of the float32 model's; None where it was not timed.
        float_sites: how many layers are in float32.
    """

    label: str
    snr_db: float
    ratio: float | None
    float_sites: int


@dataclass(frozen=True)
class Quantised:
    """A model in int8, and how it was found.

    Attributes:
        model: with QuantizeLinear and DequantizeLinear around what is computed in int8.
        sites: every layer that could be, with what it is.
        method: how the ranges of activations were chosen.
        ratio: its time as a multiple of the float32 model's, where it was measured.
        front: what was measured on the way.
        notes: what the user should know.
    """

    model: onnx.ModelProto
    sites: tuple[Site, ...]
    method: str
    ratio: Ratio | None = None
    front: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Say it in one line."""
        whole = sum(site.form == INT8 for site in self.sites)
        return f"{whole} of {len(self.sites)} layers in int8, ranges by {self.method}"
