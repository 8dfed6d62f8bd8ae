"""Sums of branches under unlike strides and windows: exact where one size makes them alike, refused elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attn_export.reparam.algebra import compose, linconv, sums
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
