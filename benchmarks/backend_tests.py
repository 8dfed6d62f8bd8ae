"""Our evaluator before a judge that we did not write: every model of the ONNX project's backend test data.

    python -m benchmarks.backend_tests [--single] [--only PART] [--verbose]

A model *agrees* (all outputs are there, of the right type and shape, and as near as the data's own precision can say),
is *refused* (an operator or a type that we do not claim, by name), *wrong*, or ends in a *traceback* (anything else).
Exits with 1 if one is wrong or a traceback.

How near: data of a float type of unit roundoff u (2⁻²⁴ for float32) was computed in that type by somebody else's
program, whose own error is some roundings of the intermediate results. So the largest difference may be ``ROUNDINGS``
times u of the largest value, and 0 for whole numbers, booleans and strings. Infinities and NaN agree by place and sign.
A few were typed in by hand with a few decimals: there the last one is what the data can say, half for the outputs and
half for the inputs, of which these are means.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export.reparam.evaluate.claims import RefusedOperatorError
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from benchmarks.backend_data import BackendCase, cases

#: Measured over all of the data: the largest difference that comes of rounding alone is 36.
ROUNDINGS = 64
STATUSES = ("agrees", "refused", "wrong", "traceback")


@dataclass(frozen=True)
class BackendOutcome:
    """What came of one model; ``detail`` says why where it does not agree."""

    case: BackendCase
    status: str
    detail: str = ""
    roundings: float = 0.0


def judge(case: BackendCase, dtype: type[np.floating[Any]] = np.float64) -> BackendOutcome:
    """Evaluate one model on all its inputs, and compare."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # many divide by zero on purpose
        return _judge(case, dtype)


def _judge(case: BackendCase, dtype: type[np.floating[Any]]) -> BackendOutcome:
    worst = 0.0
    try:
        exact = OnnxEvaluator(case.model, dtype)
        came = [exact.run(given) for given, _ in case.runs]
    except RefusedOperatorError as error:
        return BackendOutcome(case, "refused", str(error))
    except Exception as error:  # which is what is counted
        return BackendOutcome(case, "traceback", f"{type(error).__name__}: {error}")
    for (_, wanted), values in zip(case.runs, came, strict=True):
        for name, right in wanted.items():
            fault, roundings = differ(values[name], right, dtype) if name in values else ("no such output", np.inf)
            worst = max(worst, roundings)
            if fault:
                return BackendOutcome(case, "wrong", f"{name}: {fault}", worst)
    return BackendOutcome(case, "agrees", roundings=worst)


def differ(
    came: Any, right: Any, dtype: type[np.floating[Any]] = np.float64, most: float = ROUNDINGS
) -> tuple[str, float]:
    """Say how two values differ (nothing if they agree), and by how many roundings of the right one's type.

    >>> differ(np.float64([1.0, np.inf]), np.float32([1.0, np.inf]))
    ('', 0.0)
    >>> differ(np.float64([1.0, np.inf]), np.float32([1.0, -np.inf]))[0]
    'infinities or NaN elsewhere, or of another sign'
    """
    if right is None or isinstance(right, list):
        return _differ_structure(came, right, dtype, most)
    right = np.asarray(right)
    if not isinstance(came, np.ndarray):
        return f"{type(came).__name__} for an array", np.inf
    floating = right.dtype in (np.float32, np.float64, np.float16) or right.dtype.name == "bfloat16"
    wanted = np.dtype(dtype) if floating else right.dtype
    if came.dtype != wanted and not (came.dtype.kind in "OUS" and right.dtype.kind in "OUS"):
        return f"{came.dtype} for {wanted}", np.inf
    if came.shape != right.shape:
        return f"shape {came.shape} for {right.shape}", np.inf
    if not floating:
        return ("", 0.0) if _same(came, right) else (f"{int((came != right).sum())} of {right.size} differ", np.inf)
    return _differ_numbers(came.astype(np.float64), right, _unit(right.dtype, dtype), most)


def _unit(kind: np.dtype[Any], dtype: type[np.floating[Any]]) -> float:
    own = {"bfloat16": 2.0**-8}.get(kind.name) or float(np.finfo(kind).eps) / 2
    return max(own, float(np.finfo(dtype).eps) / 2)


def _same(came: NDArray[Any], right: NDArray[Any]) -> bool:
    if came.dtype.kind in "OUS":
        return [str(v) for v in came.reshape(-1)] == [str(v) for v in right.reshape(-1)]
    return came.tobytes() == right.tobytes()


def _differ_structure(came: Any, right: Any, dtype: type[np.floating[Any]], most: float) -> tuple[str, float]:
    if right is None or not isinstance(came, list) or len(came) != len(right):
        return ("", 0.0) if came is None and right is None else (f"{came!r:.60} for {right!r:.60}", np.inf)
    pairs = [differ(one, other, dtype, most) for one, other in zip(came, right, strict=True)]
    return max(pairs, key=lambda pair: (pair[1], pair[0]), default=("", 0.0))


def _differ_numbers(came: NDArray[np.float64], right: NDArray[Any], unit: float, most: float) -> tuple[str, float]:
    limit = float(right.dtype.type(np.finfo(right.dtype).max)) if right.dtype.kind == "f" else np.inf
    right = right.astype(np.float64)
    came = np.where(np.abs(came) > limit * (1 + unit), np.copysign(np.inf, came), came)  # what overflows in its type
    finite = np.isfinite(right)
    if not np.array_equal(came[~finite], right[~finite], equal_nan=True) or not np.isfinite(came[finite]).all():
        return "infinities or NaN elsewhere, or of another sign", np.inf
    largest = float(np.abs(right[finite]).max(initial=0.0))
    error = float(np.abs(came[finite] - right[finite]).max(initial=0.0))
    roundings = error / (unit * largest) if error and largest else (np.inf if error else 0.0)
    if roundings > most and error <= _last_decimal(right[finite], unit):
        return "", 0.0
    return (f"off by {roundings:.3g} roundings" if roundings > most else ""), roundings


def _last_decimal(right: NDArray[np.float64], unit: float) -> float:
    """Return the last decimal of numbers that were typed in with 3 or 4 of them, else 0.

    >>> [round(_last_decimal(np.float64(row), 2.0**-24), 9) for row in ([0.1511, 0.25], [0.151101, 0.25], [0.5, 0.25])]
    [0.0001, 0.0, 0.0]
    """
    if np.array_equal(right * 1024, np.rint(right * 1024)):
        return 0.0  # exact in binary
    for digits in (3, 4):
        if bool((np.abs(right - np.round(right, digits)) <= 2 * unit * np.abs(right)).all()):
            return float(10.0**-digits) * (1 + 4 * unit)
    return 0.0


def main() -> int:
    """Print what does not agree, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--single", action="store_true", help="evaluate in float32")
    parser.add_argument("--only", default="", help="models whose name or operator holds this")
    parser.add_argument("--verbose", action="store_true", help="print those that agree, too")
    options = parser.parse_args()
    chosen = [case for case in cases() if options.only in f"{case.name} {' '.join(operators(case))}"]
    chosen = [case for case in chosen if not (options.single and is_double(case))]
    began, counts = time.perf_counter(), Counter[str]()
    for outcome in outcomes(chosen, np.float32 if options.single else np.float64):
        counts[outcome.status] += 1
        if options.verbose or outcome.status not in ("agrees", "refused"):
            print(f"{outcome.status:9} {outcome.case.name}: {outcome.detail or f'{outcome.roundings:.3g} roundings'}")
    print(f"{len(chosen)} models in {time.perf_counter() - began:.0f} s: ", end="")
    print(", ".join(f"{counts[status]} {status}" for status in STATUSES))
    return 1 if counts["wrong"] or counts["traceback"] or not chosen else 0


def outcomes(chosen: Iterable[BackendCase], dtype: type[np.floating[Any]] = np.float64) -> Iterator[BackendOutcome]:
    """Judge one after the other."""
    return (judge(case, dtype) for case in chosen)


def is_double(case: BackendCase) -> bool:
    """Whether it holds float64 numbers, of which float32 cannot speak."""
    values = [value for given, wanted in case.runs for value in (*given.values(), *wanted.values())]
    return any(isinstance(value, np.ndarray) and value.dtype == np.float64 for value in values)


def operators(case: BackendCase) -> list[str]:
    """Return the operators of a model's own nodes, each once, with the domain if it is not the standard's."""
    return list(dict.fromkeys(f"{n.domain}.{n.op_type}".lstrip(".") for n in case.model.graph.node))


if __name__ == "__main__":
    sys.exit(main())
