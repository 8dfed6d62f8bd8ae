"""Prove that what a backend computes is the float64 truth, by a tolerance derived from the model itself.

    k = ‖y − y₆₄‖ / max( e, 8 · 2⁻²⁴ · ‖y₆₄‖ )        pass: k ≤ 4, for every case and every output

e is the largest error of PyTorch float32 over its own variants, measured when the bundle was written: how far a
correct float32 evaluation of this very model strays. The floor is for models that float32 happens to hit exactly.

Coarser precisions are measured by their signal-to-noise ratio against the same truth instead, in dB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.deploy_tests.backend import Run
from attn_export.deploy_tests.parity import metrics
from attn_export.process import activity
from attn_export.types import TensorSpec

#: The limits are the bundle's too, which may not claim more.
TOLERANCE, FLOOR, SNR = bundle.TOLERANCE, bundle.FLOOR, bundle.SNR


@dataclass(frozen=True)
class OutputComparison:
    """One output of one case against the truth.

    Attributes:
        case: name of the case.
        output: name of the output.
        error: Euclidean norm of the difference.
        bound: the largest error that passes.
        k: error in units of what float32 is allowed; infinite where values could not be compared.
        snr: signal-to-noise ratio against the truth, in dB.
        worst: largest absolute difference of one element.
        fault: empty, or why values were not even compared (shape, element type, NaN).
        user_fault: empty, or how far it lies outside the user's own atol and rtol.
        classic: what the usual rules say of the same output, by their names; None where nobody asked.
        figures: what those rules look at.
    """

    case: str
    output: str
    error: float
    bound: float
    k: float
    snr: float
    worst: float
    fault: str = ""
    user_fault: str = ""
    classic: Mapping[str, bool] | None = None
    figures: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class Parity:
    """The verdict over all cases and outputs: by ``tolerance`` on k, or where it is given, by ``snr`` in dB instead."""

    backend: str
    tolerance: float
    comparisons: tuple[OutputComparison, ...]
    snr: float | None = None

    @property
    def worst(self) -> OutputComparison:
        """The comparison nearest to failing, or furthest beyond."""
        return max(self.comparisons, key=lambda c: (bool(c.fault or c.user_fault), c.k if self.snr is None else -c.snr))

    @property
    def ok(self) -> bool:
        """Whether something was compared and all of it lies within the bound."""
        return bool(self.comparisons) and all(
            self.within(c) and not c.fault and not c.user_fault for c in self.comparisons
        )

    def within(self, row: OutputComparison) -> bool:
        """Whether the error of one comparison lies within the bound."""
        return row.k <= self.tolerance if self.snr is None else row.snr >= self.snr

    def summary(self) -> str:
        """Say the verdict in one line."""
        if not self.comparisons:
            return "nothing was compared"
        worst, verdict = self.worst, "parity holds" if self.ok else "parity fails"
        where = f"{worst.output} of case '{worst.case}'"
        if fault := worst.fault or worst.user_fault:
            return f"{verdict} on {self.backend}: {where}: {fault}"
        if self.snr is not None:
            signal = f"signal-to-noise ratio {worst.snr:.1f} dB, wanted {self.snr:g} dB"
            return f"{verdict} on {self.backend}: {signal} at {where}; {len(self.comparisons)} comparisons"
        return (
            f"{verdict} on {self.backend}: worst error {worst.error:.3g}, bound {worst.bound:.3g}"
            f" (k = {worst.k:.2f} of {self.tolerance:g}) at {where}; {len(self.comparisons)} comparisons"
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the verdict as plain data; infinite figures become None, which JSON can hold."""
        rows = [{k: _finite(v) for k, v in asdict(c).items()} for c in self.comparisons]
        bounds = {"tolerance": self.tolerance, "snr": self.snr}
        return {"ok": self.ok, "backend": self.backend, **bounds, "comparisons": rows}


def prove(
    run: Run,
    cases: Iterable[Case],
    outputs: Iterable[TensorSpec],
    *,
    backend: str,
    tolerance: float = TOLERANCE,
    snr: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    classics: bool = False,
) -> Parity:
    """Run every case and compare every output with its truth.

    ``snr`` (dB) replaces the bound on k, for precisions below float32; ``atol``/``rtol`` add the user's own
    element-wise gate; ``classics`` notes what other tools' rules say, which gates nothing.

    Raises:
        BackendError: the backend breaks on a case.
    """
    ports = tuple(outputs)
    rows = []
    for case in cases:
        with activity.doing(f"running case {case.name!r}"):
            came = run(case.inputs)
        for port in ports:
            row = compare(came.get(port.name), case, port, tolerance)
            if not row.fault and (atol is not None or rtol is not None):
                row = _user_gate(row, came[port.name], case.truth[port.name], atol or 0.0, rtol or 0.0)
            if classics and not row.fault:
                pair = came[port.name], case.truth[port.name]
                row = replace(row, classic=metrics.verdicts(*pair), figures=metrics.figures(*pair))
            rows.append(row)
    return Parity(backend, tolerance, tuple(rows), snr)


def compare(came: NDArray[Any] | None, case: Case, port: TensorSpec, tolerance: float) -> OutputComparison:
    """Compare one output: element type and shape before values, NaN and infinity before errors.

    What of the truth is not finite is compared by itself, and grants no error to the rest.
    """
    truth, name = case.truth[port.name], port.name
    both, size = np.isfinite(truth), bundle.norm(truth)
    unit = max(case.yardstick[name], FLOOR * size)

    def fault(why: str) -> OutputComparison:
        return OutputComparison(case.name, name, math.inf, tolerance * unit, math.inf, -math.inf, math.inf, why)

    if not math.isfinite(unit):
        return fault("the truth is too large to compute with")
    if came is None:
        return fault("the output is missing")
    if came.dtype != np.dtype(port.dtype):
        return fault(f"wanted {port.dtype}, came {came.dtype}")
    if came.shape != truth.shape:
        return fault(f"wanted shape {truth.shape}, came {came.shape}")
    strange = ~np.isfinite(came) & np.isfinite(truth)
    if strange.any():
        return fault(f"{int(strange.sum())} of {came.size} values are NaN or infinite where the truth is finite")
    difference = np.where(both, came.astype(np.float64) - np.where(both, truth, 0.0), 0.0)
    if not np.array_equal(came[~both], truth[~both].astype(came.dtype), equal_nan=True):
        return fault("the truth has NaN or infinity at places where the output has other values")
    error = _norm(difference)
    k = error / unit if unit else (math.inf if error else 0.0)
    if error and size:
        snr = 20 * (math.log10(size) - math.log10(error))
    else:  # there is no signal: an error that float32 is allowed is no noise, and a larger one is nothing else
        snr = math.inf if error <= tolerance * unit else -math.inf
    return OutputComparison(
        case.name, name, error, tolerance * unit, k, snr, float(np.abs(difference).max(initial=0.0))
    )


def _user_gate(
    row: OutputComparison, came: NDArray[Any], truth: NDArray[Any], atol: float, rtol: float
) -> OutputComparison:
    excess = np.abs(came.astype(np.float64) - truth) - (atol + rtol * np.abs(truth))
    if not (excess > 0).any():
        return row
    count = int((excess > 0).sum())
    why = f"{count} of {came.size} values lie outside atol {atol:g} and rtol {rtol:g}, by up to {excess.max():.3g}"
    return OutputComparison(**{**asdict(row), "user_fault": why})


def _norm(values: NDArray[Any]) -> float:
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(values.astype(np.float64).ravel()))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
