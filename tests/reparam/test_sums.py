"""Sums of branches under unlike strides and windows: exact where one size makes them alike, refused elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attn_export.reparam.algebra import compose, linconv, sums
from attn_export.reparam.algebra.border_map import Lazy
from attn_export.reparam.algebra.linconv import LinConv, NotFusibleError
from tests.reparam.test_linconv import apply, evaluate, plain

RNG = np.random.default_rng(0)


def branch(sizes: list[int | None], taps: list[int], strides: list[int]) -> tuple[LinConv, dict[str, object]]:
    weight = np.random.default_rng(sum(taps)).standard_normal((2, 2, *taps))
    made = {**plain(weight, 1), "strides": strides}
    return compose.conv(linconv.identity(2, sizes), **made), made


@pytest.mark.parametrize(
    ("sizes", "one", "two"),
    [
        ([3], ([3], [1]), ([3], [2])),  # one window, one position: the strides say nothing
        ([3], ([3], [2]), ([2], [2])),  # one stride, two windows of one position each
        ([3], ([3], [1]), ([2], [2])),  # both differ
        ([3], ([2], [2]), ([3], [1])),  # the other way about: what is narrower does not depend on the order
        ([3], ([2], [3]), ([1], [3])),
        ([3, 7], ([3, 2], [1, 2]), ([2, 2], [2, 2])),  # on one of two axes
    ],
)
def test_unlike_branches_of_one_position_are_added_exactly(
    sizes: list[int | None], one: tuple[list[int], list[int]], two: tuple[list[int], list[int]]
) -> None:
    (v, first), (w, second) = branch(sizes, *one), branch(sizes, *two)
    x = RNG.standard_normal((2, 2, *sizes))  # type: ignore[arg-type]
    wanted = apply(x, first) + apply(x, second)
    for values in ((v, w), (w, v)):
        total = sums.add(values)
        assert "static" in total.notes
        assert total.lengths == wanted.shape[2:]
        np.testing.assert_allclose(evaluate(total, x), wanted, rtol=0, atol=1e-13)
        joined = sums.concat(values)
        assert "static" in joined.notes
        order = [apply(x, first), apply(x, second)] if values[0] is v else [apply(x, second), apply(x, first)]
        np.testing.assert_allclose(evaluate(joined, x), np.concatenate(order, axis=1), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("sizes", "strides"), [([4], (1, 2)), ([None], (1, 2)), ([4], (2, 3))])
def test_unlike_strides_are_refused_where_there_may_be_more_positions(
    sizes: list[int | None], strides: tuple[int, int]
) -> None:
    values = [branch(sizes, [2], [step])[0] for step in strides]
    if all(v.lengths == (1,) for v in values):
        pytest.fail("the row does not show what it is for")
    for order in (values, values[::-1]):
        named = ", ".join(str(v.axes[0].stride) for v in order)
        with pytest.raises(NotFusibleError, match=rf"different strides \({named}\)"):
            sums.add(order)


def test_windows_of_unlike_size_are_refused_and_of_one_size_are_not() -> None:
    (v, first), (w, second) = branch([8], [3], [2]), branch([8], [4], [2])
    x = RNG.standard_normal((1, 2, 8))
    total = sums.add([v, w])
    assert total.axes[0].extent == min(v.axes[0].extent, w.axes[0].extent)
    np.testing.assert_allclose(evaluate(total, x), apply(x, first) + apply(x, second), rtol=0, atol=1e-13)
    with pytest.raises(NotFusibleError, match="windows of different sizes"):
        sums.add([v, branch([8], [5], [2])[0]])


def test_alike_branches_rely_on_no_size() -> None:
    values = [branch([None], [3], [2])[0] for _ in range(2)]
    assert sums.add(values).notes == frozenset()
    assert sums.concat(values).notes == frozenset()


def test_what_was_relied_on_and_whether_there_is_a_bias_is_kept() -> None:
    v, _ = branch([5], [2], [1])
    shifted = replace(linconv.shift(v, np.array([1.0, -2.0])), notes=frozenset({"value"}))
    for made in (sums.add([v, shifted]), sums.concat([v, shifted])):
        assert made.biased
        assert made.notes == {"value"}
    assert not sums.add([v, v]).biased
    assert not sums.concat([v, v]).biased
    np.testing.assert_array_equal(sums.add([shifted, shifted]).bias, [2.0, -4.0])
    np.testing.assert_array_equal(sums.add([shifted, shifted]).bias_magnitude, [2.0, 4.0])
    np.testing.assert_array_equal(sums.concat([v, shifted]).bias_magnitude, [0.0, 0.0, 1.0, 2.0])


def reading(channels: list[list[int]], root: int = 5) -> LinConv:
    """A value of which each output reads the root channels of its row, with the weights 1, 2, 3, …"""
    wide = max(map(len, channels))
    table = np.array([row + [-1] * (wide - len(row)) for row in channels])
    kernel = np.where(table >= 0, np.arange(1.0, wide + 1), 0.0)
    base = linconv.identity(root, [])
    bias = np.zeros(len(channels))
    return replace(
        base, src=table, grp=np.arange(len(channels)), kernel=Lazy(lambda: kernel), bias=bias, bias_magnitude=bias
    )


def matrix(v: LinConv) -> np.ndarray[Any, Any]:
    """The value as the matrix that it is where there is no space."""
    return evaluate(v, np.eye(v.channels)).T


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ([[0], [1]], [[2], [3]]),  # nothing in common
        ([[0, 2], [1, 3]], [[2], [1]]),  # one holds the other
        ([[2], [1]], [[0, 2], [1, 3]]),
        ([[0, 2], [1, 3]], [[1], [4]]),  # in between, and beyond the end
        ([[0, 1, 4], [2]], [[3], [0, 4]]),  # short rows
        ([[1, 2], [2]], [[3], [3]]),
        ([[0, 1], [0, 1]], [[0, 1], [0, 1]]),
        ([[0], [0]], [[0], [1]]),
    ],
)
def test_branches_that_read_other_channels_are_added_over_the_union(one: list[list[int]], two: list[list[int]]) -> None:
    v, w = reading(one), reading(two)
    for values in ((v, w), (w, v)):
        total = sums.add(values)
        np.testing.assert_array_equal(matrix(total), matrix(v) + matrix(w))
        unions = [{*a, *b} for a, b in zip(one, two, strict=True)]
        assert [set(total.src[group]) - {-1} for group in total.grp] == unions, "what is read, and nothing else"
        assert total.width == max(map(len, unions))
    joined = sums.concat([v, w])
    assert [set(joined.src[group]) - {-1} for group in joined.grp] == [set(row) for row in one + two]
    np.testing.assert_array_equal(matrix(joined), np.concatenate([matrix(v), matrix(w)]))
    np.testing.assert_array_equal(matrix(sums.add([v, w, v])), 2 * matrix(v) + matrix(w))


def test_rows_that_one_of_them_holds_are_not_made_again() -> None:
    widest = np.array([0, 2, 5])
    assert sums._join([np.array([2]), widest, np.array([0, 5])]) is widest
    assert sums._join([widest, np.array([], dtype=int)]) is widest
    np.testing.assert_array_equal(sums._join([widest, np.array([5, 7])]), [0, 2, 5, 7])
    np.testing.assert_array_equal(sums._join([widest, np.array([1])]), [0, 1, 2, 5])


def test_classes_that_read_alike_are_one() -> None:
    v = reading([[0, 1], [0, 1], [2, 3]])
    assert len(sums.add([v, reading([[1], [0], [2]])]).src) == 2
    assert len(sums.concat([v, v]).src) == 2


def test_a_sum_is_no_wider_than_what_is_read() -> None:
    v = reading([[0], [1]])
    turned = replace(v, src=v.src[::-1], grp=np.array([1, 0]))
    total = sums.add([v, turned])
    assert total.width == 1
    np.testing.assert_array_equal(matrix(total), 2 * matrix(v))
    nothing = [replace(v, src=np.full((n, 1), -1), grp=np.array(grp)) for n, grp in ((1, [0, 0]), (2, [0, 1]))]
    nothing = [replace(one, kernel=Lazy(lambda: np.zeros((2, 1)))) for one in nothing]
    total = sums.add(nothing)
    assert total.width == 1, "an axis of length zero is no kernel"
    np.testing.assert_array_equal(matrix(total), np.zeros((2, 5)))
