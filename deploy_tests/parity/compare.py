"""Prove that what a backend computes is the float64 reference, by a tolerance derived from the model itself.

    k = ‖y − y₆₄‖ / max( e, 8 · 2⁻²⁴ · ‖y₆₄‖ )        pass: k ≤ 4, for every case, every output and every slice of it

e is the largest error of correct float32 runs of this very model, measured when the bundle was written. The floor is
for models that float32 happens to hit exactly. Every slice of an output has limits of its own, see ``slices``.

Coarser precisions are measured by their signal-to-noise ratio against the same reference instead, in dB; their slices
are granted four times as many times what float32 is as the whole output is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export import bundle
from attn_export.bundle import Case, elements
from attn_export.bundle import rows as chosen_rows
from attn_export.deploy_tests.backend import Run
from attn_export.deploy_tests.parity import metrics, slices, varying
from attn_export.deploy_tests.parity.centred import Centred
from attn_export.process import activity
from attn_export.types import Summarised, TensorSpec

#: The limits are the bundle's too, which may not claim more.
TOLERANCE, FLOOR, SNR, UNEVEN = bundle.TOLERANCE, bundle.FLOOR, bundle.SNR, bundle.UNEVEN


@dataclass(frozen=True)
class OutputComparison:
    """One output of one case against the reference.

    Attributes:
        case: name of the case.
        output: name of the output.
        error: Euclidean norm of the difference.
        error_limit: the largest error that passes.
        normalized_error: error in units of what float32 is allowed; infinite where values could not be compared.
        snr_db: signal-to-noise ratio against the reference, in dB.
        max_abs_error: largest absolute difference of one element.
        slice_normalized_error: the same of the worst slice, in units of its own; 0 where no slice is judged by itself.
        slice_limit: the largest of that which passes.
        worst_slice: which slice that is; empty where there is none.
        failure: empty, or why values were not even compared (shape, element type, NaN).
        user_tolerance_failure: empty, or how far it lies outside the user's own atol and rtol.
        other_rules: what the usual rules say of the same output, by their names; None where nobody asked.
        metrics: what those rules look at.
    """

    case: str
    output: str
    error: float
    error_limit: float
    normalized_error: float
    snr_db: float
    max_abs_error: float
    slice_normalized_error: float = 0.0
    slice_limit: float = TOLERANCE * UNEVEN
    worst_slice: str = ""
    failure: str = ""
    user_tolerance_failure: str = ""
    other_rules: Mapping[str, bool] | None = None
    metrics: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class Parity(Summarised):
    """The verdict over all cases and outputs: by ``tolerance`` on k, or where it is given, by ``snr`` in dB instead.

    ``left_out`` names the cases that what was run cannot take, each with the reason. Of an int8 model the comparisons
    are with what its own graph means, and ``centred`` says what it keeps of what varies between images. Of one in
    float16 or bfloat16 the comparisons are with the original, and ``varying`` says that.
    """

    backend: str
    normalized_limit: float
    comparisons: tuple[OutputComparison, ...]
    snr_db_limit: float | None = None
    left_out: tuple[str, ...] = ()
    centred: tuple[Centred, ...] = ()
    varying: Centred | None = None

    @property
    def worst(self) -> OutputComparison:
        """The comparison nearest to failing, or furthest beyond."""
        return max(
            self.comparisons,
            key=lambda c: (
                bool(c.failure or c.user_tolerance_failure),
                self._excess(c),
            ),
        )

    @property
    def ok(self) -> bool:
        """Whether something was compared and all of it lies within the bound."""
        judged = self.centred if self.varying is None else (*self.centred, self.varying)
        compared = bool(self.comparisons or self.centred)
        return compared and self._rows_hold and all(one.ok for one in judged if one.outputs)

    @property
    def _rows_hold(self) -> bool:
        return all(self.within(c) and not c.failure and not c.user_tolerance_failure for c in self.comparisons)

    def within(self, row: OutputComparison) -> bool:
        """Whether the error of one comparison, and of each of its slices, lies within the bound."""
        return self._whole_within(row) and row.slice_normalized_error <= row.slice_limit

    def _whole_within(self, row: OutputComparison) -> bool:
        return (
            row.normalized_error <= self.normalized_limit
            if self.snr_db_limit is None
            else row.snr_db >= self.snr_db_limit
        )

    @staticmethod
    def _one_sided(row: OutputComparison) -> bool:
        """Whether one slice strays, by its own measure, ten times as far beyond its limit as the whole output."""
        own = row.slice_normalized_error / row.slice_limit
        return own > 1 and own * row.error_limit > 10 * row.error

    def _excess(self, row: OutputComparison) -> float:
        """How many times its bound the error is."""
        whole = (
            row.normalized_error / self.normalized_limit
            if self.snr_db_limit is None
            else 10 ** ((self.snr_db_limit - row.snr_db) / 20)
        )
        return max(whole, row.slice_normalized_error / row.slice_limit)

    def summary(self) -> str:
        """Say the verdict in one line."""
        if not self.comparisons and not self.centred:
            return "nothing was compared"
        verdict = "parity holds" if self.ok else "parity fails"
        if self.centred and self._rows_hold:
            return "; ".join([f"{verdict} on {self.backend}: {self.centred[0].summary()}", *self._besides()])
        worst = self.worst
        where = f"{worst.output} of case '{worst.case}'"
        if fault := worst.failure or worst.user_tolerance_failure:
            return f"{verdict} on {self.backend}: {where}: {fault}"
        if self._whole_within(worst) and not self.within(worst):
            return (
                f"{verdict} on {self.backend}: {worst.worst_slice} of {where} is off by"
                f" {worst.slice_normalized_error:.3g}x its float32 noise floor (limit {worst.slice_limit:.3g}x),"
                " although the output as a whole is not"
            )
        where += f", above all {worst.worst_slice}" if self._one_sided(worst) else ""
        count = f"{len(self.comparisons)} comparisons"
        if self.left_out:
            cases = "1 case" if len(self.left_out) == 1 else f"{len(self.left_out)} cases"
            count += f", {cases} left out ({self.left_out[0]})"
        if self.snr_db_limit is not None:
            besides = "" if self.varying is None else f"; {varying.summary(self.varying)}"
            signal = f"signal-to-noise ratio {worst.snr_db:.1f} dB (limit {self.snr_db_limit:g} dB)"
            return f"{verdict} on {self.backend}: {signal} at {where}; {count}{besides}"
        return (
            f"{verdict} on {self.backend}: error {worst.normalized_error:.2f}x the float32 noise floor"
            f" (limit {self.normalized_limit:g}x) at {where}; {count}"
        )

    def _besides(self) -> list[str]:
        others = [one.brief() for one in self.centred[1:]]
        return [*others, *(f"left out: {one}" for one in self.left_out)]

    def to_dict(self) -> dict[str, Any]:
        """Give the verdict as plain data; infinite figures become None, which JSON can hold."""
        rows = [{k: _finite(v) for k, v in asdict(c).items()} for c in self.comparisons]
        limits = {"normalized_limit": self.normalized_limit, "snr_db_limit": self.snr_db_limit}
        content: dict[str, Any] = {"ok": self.ok, **limits, "comparisons": rows, "left_out": list(self.left_out)}
        if self.centred:
            content["centred"] = [one.to_dict() for one in self.centred]
        if self.varying is not None:
            content["varying"] = self.varying.to_dict()
        return content


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
    shares: slices.Shares | None = None,
    images: varying.Wanted | None = None,
) -> Parity:
    """Run every case and compare every output with its reference.

    ``snr`` (dB) replaces the bound on k, for precisions below float32; ``atol``/``rtol`` add the user's own
    element-wise gate; ``classics`` notes what other tools' rules say, which gates nothing. ``shares`` is what was
    learnt of the slices from more cases than these. ``images`` asks besides for what is kept of what varies.

    Raises:
        BackendError: the backend breaks on a case.
        InconclusiveError: all is well but for what varies, of which there is so little that it decides nothing.
    """
    ports, cases = tuple(outputs), tuple(cases)
    known = slices.shares(cases) if shares is None else shares
    rows, kept = [], list[tuple[Case, Mapping[str, NDArray[Any]]]]()
    for case in cases:
        with activity.doing(f"running case {case.name!r}"):
            came = run(case.inputs)
        disordered = chosen_rows.disordered(came, case.reference, case.selections)
        came = chosen_rows.matched(came, case.reference, case.selections)
        if images is not None and case.name in images.names:
            kept.append((case, {name: value.copy() for name, value in came.items()}))  # a runtime may use it again
        for port in ports:
            row = compare(came.get(port.name), case, port, tolerance, shares=known, snr=snr)
            if port.name in disordered and not row.failure:
                row = replace(row, normalized_error=math.inf, failure=disordered[port.name])
            if not row.failure and (atol is not None or rtol is not None):
                row = _user_gate(row, came[port.name], case.reference[port.name], atol or 0.0, rtol or 0.0)
            if classics and not row.failure:
                pair = came[port.name], case.reference[port.name]
                row = replace(row, other_rules=metrics.verdicts(*pair), metrics=metrics.figures(*pair))
            rows.append(row)
    found = Parity(backend, tolerance, tuple(rows), snr)
    if images is None:
        return found
    of = varying.judge(images, [case for case, _ in kept], [came for _, came in kept], ports)
    if found.ok:
        varying.refuse_undecided(images, of)
    return replace(found, varying=of)


def compare(
    came: NDArray[Any] | None,
    case: Case,
    port: TensorSpec,
    tolerance: float,
    *,
    shares: slices.Shares | None = None,
    snr: float | None = None,
) -> OutputComparison:
    """Compare one output: element type and shape before values, NaN and infinity before errors.

    What of the reference is not finite is compared by itself, and grants no error to the rest.
    """
    reference, name = case.reference[port.name], port.name
    both, size = np.isfinite(reference), bundle.norm(reference)
    unit = slices.unit(case, name)

    def fault(why: str) -> OutputComparison:
        return OutputComparison(case.name, name, math.inf, tolerance * unit, math.inf, -math.inf, math.inf, failure=why)

    if not math.isfinite(unit):
        return fault("the reference is too large to compute with")
    if came is None:
        return fault("the output is missing")
    if not elements.holds(came, port.dtype):
        return fault(elements.strange(came, port.dtype))
    if came.shape != reference.shape:
        return fault(f"expected shape {reference.shape}, got {came.shape}")
    strange = ~np.isfinite(came) & np.isfinite(reference)
    if strange.any():
        return fault(f"{int(strange.sum())} of {came.size} values are NaN or infinite where the reference is finite")
    difference = np.where(both, came.astype(np.float64) - np.where(both, reference, 0.0), 0.0)
    if not np.array_equal(came[~both], reference[~both].astype(came.dtype), equal_nan=True):
        return fault("the reference has NaN or infinity at places where the output has other values")
    error = _norm(difference)
    k = error / unit if unit else (math.inf if error else 0.0)
    if error and size:
        ratio = 20 * (math.log10(size) - math.log10(error))
    else:  # there is no signal: an error that float32 is allowed is no noise, and a larger one is nothing else
        ratio = math.inf if error <= tolerance * unit else -math.inf
    row = OutputComparison(
        case.name, name, error, tolerance * unit, k, ratio, float(np.abs(difference).max(initial=0.0))
    )
    found = slices.worst(difference, case, name, shares or {})
    if found is None:
        return row
    # A precision that may stray so many times as far over the whole output may do so in every slice.
    coarser = 1.0 if snr is None or not unit else max(1.0, 10 ** (-snr / 20) * size / (tolerance * unit))
    return replace(
        row,
        slice_normalized_error=found.normalized_error,
        slice_limit=tolerance * UNEVEN * coarser,
        worst_slice=found.summary(),
    )


def _user_gate(
    row: OutputComparison, came: NDArray[Any], reference: NDArray[Any], atol: float, rtol: float
) -> OutputComparison:
    excess = np.abs(came.astype(np.float64) - reference) - (atol + rtol * np.abs(reference))
    if not (excess > 0).any():
        return row
    count = int((excess > 0).sum())
    why = f"{count} of {came.size} values lie outside atol {atol:g} and rtol {rtol:g}, by up to {excess.max():.3g}"
    return replace(row, user_tolerance_failure=why)


def _norm(values: NDArray[Any]) -> float:
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(values.astype(np.float64).ravel()))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
