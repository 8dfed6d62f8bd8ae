"""The gate passes what correct float32 does, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attn_export.bundle import Case
from attn_export.deploy_tests.parity.compare import FLOOR, OutputComparison, Parity, compare, prove
from attn_export.types import TensorSpec

REFERENCE = np.random.default_rng(0).standard_normal((2, 500))
PORT = TensorSpec("y", "float32", ("b", 500))


def case(float32_error: float = 0.0, reference: NDArray[Any] = REFERENCE) -> Case:
    return Case("one", {"x": np.zeros((2, 1), np.float32)}, {"y": reference}, {"y": float32_error})


def judge(came: NDArray[Any] | None, float32_error: float = 0.0, **options: Any) -> Parity:
    outputs = {} if came is None else {"y": came}
    return prove(lambda _: outputs, [case(float32_error)], [PORT], backend="test", **options)


def test_the_rounded_truth_passes() -> None:
    parity = judge(REFERENCE.astype(np.float32))
    assert parity.ok
    assert parity.worst.normalized_error < 1
    assert 140 < parity.worst.snr_db < 160


@given(st.floats(0.1, 10), st.floats(1e-6, 1e-2))
def test_k_is_the_error_in_units_of_the_float32_error(k: float, float32_error: float) -> None:
    direction = np.ones_like(REFERENCE) / math.sqrt(REFERENCE.size)
    unit = max(float32_error, FLOOR * float(np.linalg.norm(REFERENCE)))
    row = compare(REFERENCE + k * unit * direction, case(float32_error), TensorSpec("y", "float64", ("b", 500)), 4.0)
    assert row.normalized_error == pytest.approx(k, rel=1e-6)
    assert row.error_limit == pytest.approx(4 * unit)


@pytest.mark.parametrize(
    "came",
    [
        np.zeros_like(REFERENCE, np.float32),
        REFERENCE.astype(np.float32) * np.float32(1 + 1e-5),
        REFERENCE.astype(np.float32)[::-1].copy(),
        np.where(np.arange(500) == 7, REFERENCE + 1e-3, REFERENCE).astype(np.float32),
    ],
    ids=["zeros", "scaled by 1e-5", "items swapped", "one column off by 1e-3"],
)
def test_wrong_values_fail(came: NDArray[Any]) -> None:
    parity = judge(came)
    assert not parity.ok
    assert "parity fails on test" in parity.summary()


@pytest.mark.parametrize(
    ("came", "why"),
    [
        (None, "missing"),
        (REFERENCE.astype(np.float64), "expected float32, got float64"),
        (REFERENCE.astype(np.float32)[:1], "expected shape"),
        (REFERENCE.astype(np.float32).ravel(), "expected shape"),
        (np.where(np.arange(500) == 3, np.nan, REFERENCE).astype(np.float32), "2 of 1000 values are NaN"),
        (np.where(np.arange(500) == 3, np.inf, REFERENCE).astype(np.float32), "2 of 1000 values are NaN"),
    ],
)
def test_what_cannot_be_compared_fails_before_values_are(came: NDArray[Any] | None, why: str) -> None:
    parity = judge(came)
    assert not parity.ok
    assert why in parity.worst.failure
    assert parity.to_dict()["comparisons"][0]["normalized_error"] is None, "infinity is no JSON"


def test_nan_passes_only_where_the_truth_has_it() -> None:
    reference = REFERENCE.copy()
    reference[0, 0] = np.nan
    good = reference.astype(np.float32)
    assert compare(good, case(reference=reference), PORT, 4.0).failure == ""
    finite = np.nan_to_num(good)
    assert "the reference has NaN" in compare(finite, case(reference=reference), PORT, 4.0).failure


def test_nothing_compared_is_no_pass() -> None:
    empty = prove(lambda _: {}, [], [PORT], backend="test")
    assert not empty.ok
    assert empty.summary() == "nothing was compared"


def test_a_zero_truth_wants_zeros() -> None:
    zero = np.zeros_like(REFERENCE)
    assert compare(zero.astype(np.float32), case(reference=zero), PORT, 4.0).normalized_error == 0
    assert (
        compare(
            zero.astype(np.float32) + 1e-20, case(reference=zero), TensorSpec("y", "float32", ()), 4.0
        ).normalized_error
        == math.inf
    )


def test_the_users_own_tolerance_is_a_gate_of_its_own() -> None:
    came = REFERENCE.astype(np.float32)
    assert judge(came, atol=1e-6).ok
    strict = judge(came, atol=1e-12)
    assert not strict.ok
    assert "lie outside atol 1e-12 and rtol 0" in strict.summary()


def test_the_worst_is_the_one_that_decides() -> None:
    rows = [
        OutputComparison("a", "y", 1, 1, 3.0, 1, 1),
        OutputComparison("b", "y", 1, 1, 9.0, 1, 1),
        OutputComparison("c", "y", 1, 1, 1.0, 1, 1, failure="f"),
    ]
    assert Parity("t", 4, tuple(rows)).worst.case == "c"
    assert Parity("t", 4, tuple(rows[:2])).worst.case == "b"
