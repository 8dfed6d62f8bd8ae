"""The file of cases: what was written is read, what is no proof is refused, and where each bound lies."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_export.bundle import Case, case_of, cases, loose, read_cases, slices, write_cases
from attn_export.bundle.format import PER_ELEMENT, SHARE
from attn_export.errors import BundleError, InconclusiveError
from attn_export.types import TensorSpec

X, Y = TensorSpec("x", "float32", ("b", 2)), TensorSpec("y", "float32", ("b", 3))
SLICES = {1: np.array([1e-7, 0.0, 1e-7])}
GOOD = Case("one", {"x": np.ones((1, 2), np.float32)}, {"y": np.ones((1, 3))}, {"y": 1e-7}, {"y": SLICES})


def keys(file: Path) -> dict[str, Any]:
    with np.load(file) as archive:
        return dict(archive)


def refused(file: Path, case: Case, **ports: Any) -> str:
    with pytest.raises(BundleError) as caught:
        cases.fit(file, [case], ["one"], [X], [ports.get("output", Y)])
    return str(caught.value)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "cases.npz"
    other = replace(GOOD, name="ones, two", inputs={"x": np.full((4, 2), 3, np.float32)}, float32_error={"y": 2e-7})
    write_cases(file, [GOOD, other])
    wanted = {"names"} | {
        f"{i}.{k}" for i in "01" for k in ("input.x", "reference.y", "float32_error.y", "slice_error.1.y")
    }
    assert keys(file).keys() == wanted
    assert cases.case_names(file) == ["one", "ones, two"]
    for came, case in zip(read_cases(file), (GOOD, other), strict=True):
        assert came.name == case.name
        np.testing.assert_array_equal(came.inputs["x"], case.inputs["x"])
        np.testing.assert_array_equal(came.reference["y"], case.reference["y"])
        assert came.float32_error == case.float32_error
        np.testing.assert_array_equal(came.slice_error["y"][1], SLICES[1])
    cases.fit(file, read_cases(file), ["one", "ones, two"], [X], [Y])


def test_where_no_slice_was_measured_the_error_is_spread_evenly(tmp_path: Path) -> None:
    file = tmp_path / "cases.npz"
    wide = Case("one", {}, {"y": np.ones((2, 4, 9)), "z": np.ones((2, 0))}, {"y": 6.0, "z": 1.0})
    write_cases(file, [wide])
    found = keys(file)
    np.testing.assert_array_equal(found["0.slice_error.1.y"], [3.0] * 4)
    np.testing.assert_array_equal(found["0.slice_error.2.y"], [2.0] * 9)
    assert "0.slice_error.0.y" not in found
    assert found["0.slice_error.1.z"].shape == (0,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": np.array([], dtype="U1")}, "holds no cases"),
        ({"names": np.array([1])}, "expected a list of the cases' names"),
        ({"names": np.array([["one"]])}, "expected a list of the cases' names"),
        ({"1.input.x": np.ones(1)}, "'1.input.x' is of no case"),
        ({"00.input.x": np.ones(1)}, "'00.input.x' is of no case"),
        ({"0.other.x": np.ones(1)}, "'0.other.x' is of no case"),
        ({"0.slice_error.100.y": np.ones(1)}, "is of no case"),
        ({"0.float32_error.y": np.array([1e-7])}, "expected one finite number, not negative"),
        ({"0.float32_error.y": np.array(-1e-7)}, "expected one finite number, not negative"),
        ({"0.float32_error.y": np.array(np.nan)}, "expected one finite number, not negative"),
        ({"0.float32_error.y": np.array("1")}, "expected one finite number, not negative"),
    ],
)
def test_a_file_that_is_no_list_of_cases_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    file = tmp_path / "cases.npz"
    write_cases(file, [GOOD])
    np.savez(file, **(keys(file) | change))
    with pytest.raises(BundleError, match=said):
        read_cases(file)


@pytest.mark.parametrize("error", [np.array(0.0), np.array(0), np.array(2, np.uint8)])
def test_a_float32_error_may_be_zero_or_whole(tmp_path: Path, error: Any) -> None:
    file = tmp_path / "cases.npz"
    write_cases(file, [GOOD])
    np.savez(file, **(keys(file) | {"0.float32_error.y": error}))
    assert read_cases(file)[0].float32_error == {"y": float(error)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": {}}, "input: expected x, got none;"),
        ({"inputs": {"x": np.ones((1, 2))}}, "input 'x': expected float32, got float64;"),
        ({"inputs": {"x": np.ones((1, 3), np.float32)}}, "input 'x': expected bx2, got the shape (1, 3);"),
        ({"inputs": {"x": np.ones(2, np.float32)}}, "input 'x': expected bx2, got the shape (2,);"),
        ({"reference": {"z": np.ones((1, 3))}}, "reference: expected y, got z;"),
        ({"reference": {"y": np.full((1, 3), "a")}}, "reference 'y': expected float32, got <U1;"),
        ({"float32_error": {}}, "expected one float32 error for every output, and nothing else;"),
        ({"float32_error": {"y": 1e-7, "z": 0.0}}, "expected one float32 error for every output, and nothing else;"),
        ({"slice_error": {}}, "expected float32 errors of 'y' along 1, got []"),
        ({"slice_error": {"y": {0: np.zeros(1), 1: np.zeros(3)}}}, "along 1, got [0, 1]"),
        (
            {"slice_error": {"y": {1: np.zeros(2)}}},
            "3 float32 errors along axis 1 of 'y', got (2,) of float64",
        ),
        (
            {"slice_error": {"y": {1: np.zeros(3, int)}}},
            "3 float32 errors along axis 1 of 'y', got (3,) of int",
        ),
        ({"slice_error": {"y": {1: np.array([0, 0, 1.1e-7])}}}, "along axis 1 of 'y' is not between 0 and 1e-07"),
        ({"slice_error": {"y": {1: np.array([0, 0, -1e-9])}}}, "is not between 0 and 1e-07"),
        ({"slice_error": {"y": {1: np.array([0, np.nan, 0])}}}, "is not between 0 and 1e-07"),
        ({"slice_error": {"y": SLICES, "z": {}}}, "it has float32 errors of 'z', which is no output"),
        ({"float32_error": {"y": 0.9}}, "the float32 error of 'y' is 0.9"),
    ],
)
def test_a_case_that_does_not_fit_the_model_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    assert said in refused(tmp_path, replace(GOOD, **change))


def test_a_case_that_fits_passes_up_to_rounding_and_in_any_type_of_reference(tmp_path: Path) -> None:
    cases.fit(tmp_path, [GOOD], ["one"], [X], [Y])
    rounded = replace(GOOD, slice_error={"y": {1: np.array([0, 0, 1e-7 * (1 + 0.9e-6)])}})
    cases.fit(tmp_path, [rounded], ["one"], [X], [Y])
    beyond = replace(GOOD, slice_error={"y": {1: np.array([0, 0, 1e-7 * (1 + 1.1e-6)])}})
    assert "is not between" in refused(tmp_path, beyond)
    one = Case("one", GOOD.inputs, {"y": np.ones(())}, {"y": 0.0})
    assert "expected 3, got the shape ()" in refused(tmp_path, one, output=TensorSpec("y", "float32", (3,)))
    scalar = TensorSpec("y", "float32", ())
    assert "expected one number, got the shape (1, 3)" in refused(tmp_path, GOOD, output=scalar)
    cases.fit(tmp_path, [one], ["one"], [X], [scalar])
    with pytest.raises(BundleError, match=r"other cases than the manifest counts \(2\)"):
        cases.fit(tmp_path, [GOOD], ["one", "two"], [X], [Y])


def test_a_name_of_any_length_is_shown_up_to_80_letters(tmp_path: Path) -> None:
    name = "n" * 200
    long = Case("c" * 200, GOOD.inputs, {name: np.ones((1, 3))}, {name: 1e-7}, {name: {1: np.zeros(2)}})
    with pytest.raises(BundleError) as caught:
        cases.fit(tmp_path, [long], [long.name], [X], [TensorSpec(name, "float32", ("b", 3))])
    said = str(caught.value)
    assert f"case '{'c' * 80}':" in said
    assert f"of '{'n' * 80}', got (2,)" in said
    with pytest.raises(BundleError, match=f"of '{'n' * 80}' is not between"):
        far = replace(long, slice_error={name: {1: np.ones(3)}})
        cases.fit(tmp_path, [far], [long.name], [X], [TensorSpec(name, "float32", ("b", 3))])


def test_how_far_float32_strays_is_the_worst_of_its_runs_over_the_whole_and_every_slice() -> None:
    truth = np.array([[1.0, np.inf], [2.0, 3.0]])
    runs = [
        {"y": truth + np.array([[3.0, 0.0], [4.0, 0.0]])},  # 5 in all, in one column
        {"y": truth + np.array([[0.0, 9.0], [0.0, 2.0]])},
        {"y": np.zeros(7)},  # another shape is no measure
    ]
    made = case_of("one", {}, {"y": truth}, runs)
    assert made.float32_error == {"y": 5.0}
    np.testing.assert_array_equal(made.slice_error["y"][1], [5.0, 2.0])
    assert set(made.slice_error["y"]) == {1}
    none = case_of("one", {}, {"y": truth}, runs[2:])
    assert none.float32_error == {"y": 0.0}
    np.testing.assert_array_equal(none.slice_error["y"][1], [0.0, 0.0])


def strayed(reference: list[float], error: float) -> str:
    return loose(Case("one", {}, {"y": np.array(reference)}, {"y": error}))


def test_which_float32_error_is_believed() -> None:
    large = [3000.0, 4000.0]  # a share of its norm
    assert PER_ELEMENT * math.sqrt(2) < SHARE * 5000
    assert strayed(large, SHARE * 5000) == ""
    assert f"is {SHARE * 5000 * 1.01:.3g}, {SHARE * 1.01:.2g} of its norm" in strayed(large, SHARE * 5000 * 1.01)
    small = [PER_ELEMENT * 30, PER_ELEMENT * 40]  # so much an element
    most = PER_ELEMENT * math.sqrt(2)
    assert SHARE * PER_ELEMENT * 50 < most < PER_ELEMENT * 50 / 8
    assert strayed(small, most) == ""
    assert strayed(small, most * 1.01)
    tiny = [PER_ELEMENT * 3, PER_ELEMENT * 4]  # never more than an eighth of all there is
    assert most > PER_ELEMENT * 5 / 8
    assert strayed(tiny, PER_ELEMENT * 5 / 8) == ""
    assert strayed(tiny, PER_ELEMENT * 5 / 8 * 1.01)
    assert "its reference is zero" in strayed([0.0, 0.0], 1e-9)
    assert strayed([0.0, 0.0], 0.0) == ""
    assert strayed([1.0, 1.0], math.nan)
    assert "too large to compute with" in strayed([1e300, 1e300], 0.0)
    with pytest.raises(InconclusiveError, match="case 'one': the float32 error of 'y'"):
        cases.refuse_loose([GOOD, replace(GOOD, float32_error={"y": 0.9})])
    cases.refuse_loose([GOOD])


def test_an_output_that_is_zero_in_every_case_is_idle() -> None:
    rows = [
        Case("a", {}, {"y": np.zeros(2), "z": np.array([0.0, 1.0]), "w": np.array([np.nan, np.inf])}, {}),
        Case("b", {}, {"y": np.zeros(2), "z": np.zeros(2), "w": np.zeros(2)}, {}),
    ]
    ports = [TensorSpec(name, "float32", (2,)) for name in ("w", "y", "z")]
    assert cases.idle(rows, ports) == ("w", "y")
    assert cases.idle(rows[1:], ports) == ("w", "y", "z")
    assert cases.idle(rows[::-1], ports) == ("w", "y")


def test_slices_are_cut_along_all_axes_but_the_batch() -> None:
    assert [slices.axes(rank) for rank in range(4)] == [(), (0,), (1,), (1, 2)]
    values = np.array([[[3.0, 0.0], [4.0, 0.0]], [[0.0, 12.0], [0.0, np.nan]]])
    np.testing.assert_array_equal(slices.norms(values, 0), [5.0, 12.0])
    np.testing.assert_array_equal(slices.norms(values, 1), [math.sqrt(9 + 144), 4.0])
    np.testing.assert_array_equal(slices.norms(values, 2), [5.0, 12.0])
    np.testing.assert_array_equal(slices.norms(np.full((1, 2), 1e200), 1), [np.inf, np.inf])
