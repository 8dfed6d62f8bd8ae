"""The verdict over rows whose figures are given: which is worst, what is said of it, and where each bound lies."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attn_export.bundle import Case
from attn_export.deploy_tests.parity.compare import OutputComparison, Parity, compare, prove
from attn_export.types import TensorSpec

FINE = OutputComparison("one", "y", 2.0, 4.0, 2.0, 120.0, 0.5, 1.0, 4.0, "slice 0 of 3 along axis 1")
PORT = TensorSpec("y", "float32", (2,))


def parity(*rows: OutputComparison, snr: float | None = None) -> Parity:
    return Parity("runtime", 4.0, rows, snr)


def case(reference: Any, error: float = 1e-3, name: str = "one") -> Case:
    return Case(name, {"x": np.zeros(1, np.float32)}, {"y": np.asarray(reference, np.float64)}, {"y": error})


def came(values: Any, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.asarray(values, dtype)


@pytest.mark.parametrize(
    ("row", "snr", "ok"),
    [
        (FINE, None, True),
        (replace(FINE, normalized_error=4.0), None, True),  # the bound itself passes
        (replace(FINE, normalized_error=4.001), None, False),
        (replace(FINE, normalized_error=99.0), 120.0, True),  # decibels replace k
        (replace(FINE, snr_db=60.0), 60.0, True),
        (replace(FINE, snr_db=59.9), 60.0, False),
        (replace(FINE, slice_normalized_error=4.0), None, True),
        (replace(FINE, slice_normalized_error=4.001), None, False),
        (replace(FINE, slice_normalized_error=4.001), 60.0, False),
        (replace(FINE, failure="gone"), None, False),
        (replace(FINE, user_tolerance_failure="too far"), None, False),
        (replace(FINE, normalized_error=math.nan), None, False),
    ],
)
def test_what_passes(row: OutputComparison, snr: float | None, ok: bool) -> None:
    assert parity(FINE, row, snr=snr).ok is ok
    assert not parity(snr=snr).ok, "nothing was compared"


@pytest.mark.parametrize(
    ("worse", "better", "snr"),
    [
        (replace(FINE, normalized_error=3.0), FINE, None),
        (replace(FINE, slice_normalized_error=3.0, normalized_error=1.0), FINE, None),  # 3/4 of its bound, not 2/4
        (replace(FINE, slice_normalized_error=30.0, slice_limit=40.0), FINE, None),  # each by its own bound
        (replace(FINE, normalized_error=3.0), replace(FINE, slice_normalized_error=20.0, slice_limit=40.0), None),
        (replace(FINE, snr_db=70.0), replace(FINE, snr_db=80.0), 60.0),
        (replace(FINE, snr_db=70.0, slice_normalized_error=0.0), replace(FINE, slice_normalized_error=1.2), 60.0),
        (replace(FINE, slice_normalized_error=1.3, snr_db=99.0), replace(FINE, snr_db=70.2), 60.0),
        (replace(FINE, failure="gone", normalized_error=0.0), replace(FINE, normalized_error=99.0), None),
        (replace(FINE, user_tolerance_failure="far", normalized_error=0.0), replace(FINE, normalized_error=99.0), None),
    ],
)
def test_the_worst_is_what_comes_nearest_to_its_bound(
    worse: OutputComparison, better: OutputComparison, snr: float | None
) -> None:
    assert parity(better, worse, snr=snr).worst is worse
    assert parity(worse, better, snr=snr).worst is worse


def test_what_is_said() -> None:
    assert parity().summary() == "nothing was compared"
    said = "parity holds on runtime: error 2.00x the float32 noise floor (limit 4x) at y of case 'one'; 1 comparisons"
    assert parity(FINE).summary() == said
    said = "parity holds on runtime: signal-to-noise ratio 120.0 dB (limit 60 dB) at y of case 'one'; 2 comparisons"
    assert parity(FINE, FINE, snr=60.0).summary() == said
    assert parity(replace(FINE, failure="gone")).summary() == "parity fails on runtime: y of case 'one': gone"
    slice_only = replace(FINE, slice_normalized_error=8.0)
    assert parity(slice_only).summary() == (
        "parity fails on runtime: slice 0 of 3 along axis 1 of y of case 'one' is off by 8x its float32 noise floor"
        " (limit 4x), although the output as a whole is not"
    )


@pytest.mark.parametrize(
    ("own", "limit", "error", "named"),
    [
        (400.0, 4.0, 30.0, True),  # 100 times its bound; the whole, 7.5 times
        (400.0, 4.0, 40.0, False),  # exactly ten times as far is not yet one-sided
        (400.0, 4.0, 39.9, True),
        (8.0, 4.0, 30.0, False),
        (3.9, 4.0, 0.01, False),  # within its bound: nothing to name, however small the whole
        (400.0, 40.0, 3.99, True),  # bounds are each one's own
        (400.0, 40.0, 4.1, False),
    ],
)
def test_a_slice_is_named_where_it_strays_ten_times_as_far(own: float, limit: float, error: float, named: bool) -> None:
    row = replace(FINE, normalized_error=5.0, slice_normalized_error=own, slice_limit=limit, error=error)
    assert ("above all slice 0 of 3" in parity(row).summary()) is named


def test_figures_are_plain_data_and_infinity_is_none() -> None:
    made = parity(replace(FINE, normalized_error=math.inf, snr_db=-math.inf)).to_dict()
    json.dumps(made, allow_nan=False)
    (row,) = made["comparisons"]
    assert (made["ok"], made["normalized_limit"], made["snr_db_limit"]) == (False, 4.0, None)
    assert (row["normalized_error"], row["snr_db"], row["error"]) == (None, None, 2.0)


def test_the_figures_of_one_output() -> None:
    row = compare(came([3.0, 4.5]), case([3.0, 4.0], 0.1), PORT, 4.0)
    assert row.error == 0.5
    assert row.error_limit == pytest.approx(0.4)
    assert row.normalized_error == pytest.approx(5.0)
    assert row.snr_db == pytest.approx(20.0), "5 over 0.5"
    assert row.max_abs_error == 0.5
    assert (row.slice_normalized_error, row.worst_slice, row.failure) == (0.0, "", "")


def test_the_floor_is_eight_units_of_float32() -> None:
    row = compare(came([3.0, 4.0]), case([3.0, 4.0], 0.0), PORT, 4.0)
    assert row.error_limit == pytest.approx(4 * 8 * 2.0**-24 * 5)
    assert (row.normalized_error, row.snr_db) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("error", "value", "k", "snr"),
    [
        (0.0, 0.0, 0.0, math.inf),
        (0.0, 1e-9, math.inf, -math.inf),
        (1e-3, 4e-3, 4.0, math.inf),
        (1e-3, 5e-3, 5.0, -math.inf),
    ],
)
def test_a_reference_of_zeros_has_no_signal(error: float, value: float, k: float, snr: float) -> None:
    row = compare(came([0.0, value]), case([0.0, 0.0], error), PORT, 4.0 + 1e-6)
    assert row.normalized_error == pytest.approx(k)
    assert row.snr_db == snr


@pytest.mark.parametrize(
    ("got", "reference", "why"),
    [
        (None, [1.0, 2.0], "the output is missing"),
        (came([1, 2], "float64"), [1.0, 2.0], "expected float32, got float64"),
        (came([1, 2, 3]), [1.0, 2.0], r"expected shape (2,), got (3,)"),
        (came([1, np.nan]), [1.0, 2.0], "1 of 2 values are NaN or infinite where the reference is finite"),
        (came([1, 2]), [1.0, np.inf], "the reference has NaN or infinity at places where the output has other values"),
        (came([1, -np.inf]), [1.0, np.inf], "the reference has NaN or infinity at places"),
        (came([1, np.nan]), [1.0, np.nan], ""),
        (came([1, np.inf]), [1.0, np.inf], ""),
    ],
)
def test_what_cannot_be_compared_is_a_failure_with_figures_that_fail(got: Any, reference: Any, why: str) -> None:
    row = compare(got, case(reference), PORT, 4.0)
    assert row.failure.startswith(why)
    assert bool(row.failure) is bool(why)
    figures = (row.error, row.normalized_error, row.snr_db, row.max_abs_error)
    if why:
        assert figures == (math.inf, math.inf, -math.inf, math.inf)
        assert not parity(row).ok
    else:
        assert figures == (0.0, 0.0, math.inf, 0.0)


def test_an_empty_output_has_no_error() -> None:
    row = compare(came([]), case([]), TensorSpec("y", "float32", (0,)), 4.0)
    assert (row.error, row.max_abs_error, row.failure) == (0.0, 0.0, "")


def test_a_reference_beyond_float64_is_too_large() -> None:
    row = compare(came([1.0, 1.0]), case([1.0, 1.0], math.inf), PORT, 4.0)
    assert row.failure == "the reference is too large to compute with"


@pytest.mark.parametrize(
    ("atol", "rtol", "said"),
    [
        (0.5, None, ""),
        (0.49, None, "1 of 2 values lie outside atol 0.49 and rtol 0, by up to 0.01"),
        (None, 0.125, ""),
        (None, 0.1, "1 of 2 values lie outside atol 0 and rtol 0.1, by up to 0.1"),
        (0.1, 0.1, ""),
        (None, None, ""),
    ],
)
def test_the_users_own_gate(atol: float | None, rtol: float | None, said: str) -> None:
    made = prove(lambda _: {"y": came([3.0, 4.5])}, [case([3.0, 4.0], 1.0)], [PORT], backend="r", atol=atol, rtol=rtol)
    assert made.comparisons[0].user_tolerance_failure == said
    assert made.ok is not bool(said)


def test_every_case_and_output_is_compared_and_other_rules_only_if_asked() -> None:
    given = [case([1.0, 2.0], name="one"), case([1.0, 2.0], name="two")]
    plain = prove(lambda _: {"y": came([1.0, 2.0])}, given, [PORT], backend="r")
    assert [(row.case, row.output) for row in plain.comparisons] == [("one", "y"), ("two", "y")]
    assert (plain.backend, plain.normalized_limit, plain.snr_db_limit) == ("r", 4.0, None)
    assert plain.comparisons[0].other_rules is None
    asked = prove(lambda _: {"y": came([1.0, 2.0])}, given, [PORT], backend="r", classics=True, tolerance=3.0)
    assert asked.comparisons[1].other_rules
    assert asked.comparisons[1].metrics
    assert asked.normalized_limit == 3.0
    broken = prove(lambda _: {}, given, [PORT], backend="r", classics=True, atol=1.0)
    assert {row.failure for row in broken.comparisons} == {"the output is missing"}
    assert broken.comparisons[0].other_rules is None
