"""What a maker's simulator gave, against the reference: a label of its own, "simulated", and neither a chip nor a time.

Simulators do not tell chips apart (QNN's gives the same outputs for each), so a figure says whether the graph that was
compiled still means the model, and nothing of one chip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export.bundle import Case
from attn_export.deploy_tests.parity import centred, metrics
from attn_export.types import JsonDict, TensorSpec

#: How many times as large as in the first case the largest value of an input may be; the first is drawn as is usual.
USUAL = 2.0


@dataclass(frozen=True)
class Simulated:
    """The worst of what was simulated.

    Attributes:
        cases: how many were simulated.
        snr_db: the least signal-to-noise ratio of an output, in dB; None where it is infinite, or nothing to compare.
        case: of which case.
        output: of which output.
        failure: why the values were not even compared; empty otherwise.
        centred: whether the signal is what varies between the cases alone.
    """

    cases: int
    snr_db: float | None
    case: str
    output: str
    failure: str = ""
    centred: bool = False

    def summary(self) -> str:
        """Say it under its label.

        >>> Simulated(4, 47.123, "b=1", "y").summary()
        "simulated: 47.1 dB at the least, at y of case 'b=1' of 4; of no one chip, and no latency"
        """
        of = " of what varies" if self.centred else ""
        worst = self.failure or ("no error" if self.snr_db is None else f"{self.snr_db:.1f} dB{of} at the least")
        place = f"at {self.output} of case {self.case!r} of {self.cases}"
        return f"simulated: {worst}, {place}; of no one chip, and no latency"

    def to_dict(self) -> JsonDict:
        """Give it as plain data, for a report."""
        return {"label": "simulated", **asdict(self)}


def fitting(
    cases: Sequence[Case], sizes: Mapping[str, Sequence[int]], meaning: Sequence[Case] = ()
) -> tuple[Case, ...]:
    """Choose the cases that a build can be asked for: of its fixed sizes, and as large as what is usual.

    Of a model in int8 those are the ones that it has a ``meaning`` for: the user's data, which it was calibrated for.

    A bundle tries extremes too: 100,000 lies beyond float16, and one bright pixel would be all that int8 resolves.
    """
    if names := {case.name for case in meaning}:
        return tuple(case for case in cases if case.name in names and _fits(case, sizes))
    usual = _magnitudes(cases[0])
    return tuple(
        case
        for case in cases
        if _fits(case, sizes) and all(value <= USUAL * usual[name] for name, value in _magnitudes(case).items())
    )


def _fits(case: Case, sizes: Mapping[str, Sequence[int]]) -> bool:
    return all(tuple(sizes[name]) == array.shape for name, array in case.inputs.items())


def _magnitudes(case: Case) -> dict[str, float]:
    return {
        name: float(np.abs(array.astype(np.float64)).max(initial=0.0))
        for name, array in case.inputs.items()
        if array.dtype.kind == "f"
    }


def judge(cases: Sequence[Case], outputs: Sequence[Mapping[str, NDArray[Any]]]) -> Simulated | None:
    """Find the worst output of all; None where nothing was simulated."""
    worst: tuple[float, Simulated] | None = None
    for case, got in zip(cases, outputs, strict=True):
        for name, reference in case.reference.items():
            failure = _failure(got.get(name), reference)
            ratio = -math.inf if failure else metrics.snr(got[name], reference)
            if worst is None or ratio < worst[0]:
                finite = ratio if math.isfinite(ratio) else None
                worst = ratio, Simulated(len(cases), finite, case.name, name, failure)
    return worst and worst[1]


def judge_int8(
    cases: Sequence[Case], outputs: Sequence[Mapping[str, NDArray[Any]]], ports: Iterable[TensorSpec]
) -> Simulated:
    """Find the worst image of a model in int8, by what varies between images alone.

    Raises:
        InconclusiveError: next to nothing varies, or there is one image.
    """
    found = centred.compare(cases, outputs, ports, batched=False, against="the original in float64")
    least = min(found.judged, key=lambda one: (not one.worst.failure, one.worst.snr_db))
    worst = least.worst
    return Simulated(len(cases), worst.snr_db, worst.name, least.output, worst.failure, centred=True)


def _failure(got: NDArray[Any] | None, reference: NDArray[Any]) -> str:
    if got is None:
        return "the output is missing"
    if got.shape != reference.shape:
        return f"expected the shape {reference.shape}, got {got.shape}"
    return "" if np.isfinite(got).all() else "NaN or infinite values"
