"""The limit of a slice, by figures that are given: its own error, the floor, and its usual share of the whole."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from attn_export.bundle import FLOOR, Case
from attn_export.deploy_tests.parity import slices
from attn_export.deploy_tests.parity.compare import prove
from attn_export.deploy_tests.parity.slices import LEAST, WorstSlice, shares, unit, worst
from attn_export.types import TensorSpec


def case(whole: float, rows: list[float], reference: Any = None, name: str = "y") -> Case:
    """Two slices along axis 1, four numbers each."""
    truth = np.zeros((2, 2, 2)) if reference is None else np.asarray(reference, np.float64)
    return Case("c", {}, {name: truth}, {name: whole}, {name: {1: np.array(rows)}})


def test_the_unit_of_a_whole_is_its_error_or_the_floor() -> None:
    assert unit(case(0.5, [0, 0]), "y") == 0.5
    assert unit(case(0.0, [0, 0], np.full((2, 2, 2), 2.0)), "y") == pytest.approx(FLOOR * 2 * math.sqrt(8))


def test_a_share_is_the_root_mean_square_over_the_cases_that_count() -> None:
    found = [case(1.0, [0.6, 0.0]), case(2.0, [1.6, 0.2]), case(0.0, [0.0, 0.0]), case(math.inf, [9.0, 9.0])]
    (share,) = shares(found).values()
    np.testing.assert_allclose(share, [math.sqrt((0.36 + 0.64) / 2), math.sqrt(0.01 / 2)])
    np.testing.assert_array_equal(share, shares([found[3], found[2], *found[:2]])["y", 1, 2])  # in any order


def test_what_does_not_count_in_one_output_takes_nothing_from_the_next() -> None:
    both = Case(
        "c",
        {},
        {"x": np.zeros((1, 1, 8)), "y": np.zeros((1, 2, 8))},
        {"x": 0.0, "y": 1.0},
        {"x": {1: np.zeros(1), 2: np.zeros(8)}, "y": {1: np.full(2, 0.5), 2: np.full(8, 0.25)}},
    )
    found = shares([both])
    assert set(found) == {("y", 1, 2), ("y", 2, 8)}
    np.testing.assert_array_equal(found["y", 1, 2], [0.5, 0.5])
    assert np.isnan(found["y", 2, 8]).all(), "two numbers a slice are too few"


@pytest.mark.parametrize(("count", "known"), [(LEAST - 1, False), (LEAST, True), (LEAST + 1, True)])
def test_a_share_rests_on_enough_numbers(count: int, known: bool) -> None:
    assert LEAST == 8
    one = Case("c", {}, {"y": np.zeros((1, 2, count))}, {"y": 1.0}, {"y": {1: np.full(2, 0.5)}})
    assert bool(np.isnan(shares([one])["y", 1, 2]).any()) is not known
    halves = [Case("c", {}, {"y": np.zeros((1, 2, 4))}, {"y": 1.0}, {"y": {1: np.full(2, 0.5)}})] * 2
    assert not np.isnan(shares(halves)["y", 1, 2]).any(), "numbers add up over cases"


def test_a_slice_is_granted_the_largest_of_three() -> None:
    reference = np.zeros((2, 2, 2))
    reference[:, 1] = 1e4
    made = case(1.0, [0.5, 0.0], reference)
    floor = FLOOR * 1e4 * 2
    known = {("y", 1, 2): np.array([0.1, 0.0])}
    difference = np.zeros((2, 2, 2))
    difference[0, 0] = [0.6, 0.8]
    assert worst(difference, made, "y", known) == WorstSlice(1, 0, 2, 1.0, 0.0, 2.0), "its own error"
    difference[0, 1, 0] = 3 * floor
    came = worst(difference, made, "y", known)
    assert came is not None
    assert (came.index, came.error, came.reference) == (1, 3 * floor, 2e4)
    assert came.normalized_error == pytest.approx(3), "the floor of its reference"
    usual = {("y", 1, 2): np.array([4.0, 4.0])}
    came = worst(difference, made, "y", usual)
    assert came is not None
    assert came.normalized_error == pytest.approx(max(1.0, 3 * floor) / 4), "its usual share of the whole"


def test_what_is_granted_nothing_may_have_none() -> None:
    made, known = case(1.0, [0.0, 0.0]), {("y", 1, 2): np.zeros(2)}
    difference = np.zeros((2, 2, 2))
    none = worst(difference, made, "y", known)
    assert none is not None
    assert none.normalized_error == 0.0
    difference[1, 1, 1] = 1e-30
    came = worst(difference, made, "y", known)
    assert came is not None
    assert (came.index, came.normalized_error) == (1, math.inf)


def test_the_worst_is_taken_over_all_axes_that_are_known() -> None:
    reference = np.zeros((2, 2, 3))
    errors = {1: np.array([1.0, 1.0]), 2: np.array([1.0, 0.1, 1.0])}
    made = Case("c", {}, {"y": reference}, {"y": 2.0}, {"y": errors})
    difference = np.zeros((2, 2, 3))
    difference[0, 0, 1] = 0.5
    zeros = {("y", 1, 2): np.zeros(2), ("y", 2, 3): np.zeros(3)}
    came = worst(difference, made, "y", zeros)
    assert came is not None
    assert (came.axis, came.index, came.size) == (2, 1, 3)
    assert came.normalized_error == pytest.approx(5)
    one = worst(difference, made, "y", {**zeros, ("y", 2, 3): np.full(3, np.nan)})
    assert one is not None
    assert (one.axis, one.normalized_error) == (1, 0.5)
    assert worst(difference, made, "y", {("y", 1, 2): np.full(2, np.nan)}) is None
    assert worst(difference, made, "y", {}) is None
    after = worst(difference, made, "y", {("y", 1, 2): np.full(2, np.nan), ("y", 2, 3): np.zeros(3)})
    assert after is not None
    assert after.axis == 2, "an axis of which nothing is known does not end the search"


def test_an_output_without_elements_or_slices_is_not_judged() -> None:
    empty = Case("c", {}, {"y": np.zeros((1, 0))}, {"y": 1.0}, {"y": {1: np.zeros(0)}})
    assert worst(np.zeros((1, 0)), empty, "y", shares([empty])) is None
    assert worst(np.zeros(()), Case("c", {}, {"y": np.zeros(())}, {"y": 1.0}, {}), "y", {}) is None
    assert "slice 7 of 18 along axis 1" in slices.WorstSlice(1, 7, 18, 0.08, 0.08, 1e5).summary()


@pytest.mark.parametrize(("times", "passes"), [(15.9, True), (16.1, False)])
def test_a_slice_may_be_off_by_sixteen_of_its_units_where_the_whole_may_be_by_four(times: float, passes: bool) -> None:
    reference = np.ones((1, 2, 8))
    reference[:, 0] = 1e6
    errors = np.array([1.0, 1e-3])
    made = Case("c", {}, {"y": reference}, {"y": 1.0}, {"y": {1: errors, 2: np.ones(8)}})

    def run(_: Any) -> dict[str, Any]:
        came = reference.copy()
        came[0, 1] += times * max(errors[1], FLOOR * math.sqrt(8)) / math.sqrt(8)
        return {"y": came}

    assert prove(run, [made], [TensorSpec("y", "float64", (1, 2, 8))], backend="").ok is passes
