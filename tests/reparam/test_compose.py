"""Composition where taps interleave and rows are short: written out, against the definition of both convolutions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attn_export.reparam.algebra import compose, linconv
from attn_export.reparam.algebra.border_map import Lazy
from attn_export.reparam.algebra.linconv import Axis, LinConv
from tests.reparam.test_linconv import Array, apply, evaluate, plain
from tests.reparam.test_sums import reading


def spread(taps: tuple[int, ...], channels: int = 2) -> LinConv:
    """Each channel by itself, read at these offsets with the weights 1, 2, 3, …"""
    base = linconv.identity(channels, [12])
    kernel = np.broadcast_to(np.arange(1.0, len(taps) + 1), (channels, 1, len(taps)))
    return replace(base, axes=(Axis(taps, 1, -1 - taps[-1], 12),), kernel=Lazy(lambda: kernel))


@pytest.mark.parametrize("taps", [(0, 2), (0, 1, 3), (0, 3, 4), (0, 1, 2), (0, 4)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("gap", [1, 2])
def test_taps_that_interleave_are_put_where_they_belong(taps: tuple[int, ...], groups: int, gap: int) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 2 // groups, 2))
    x = np.random.default_rng(1).standard_normal((1, 2, 12))
    v = spread(taps)
    made = compose.conv(v, weight, dilations=[gap], groups=groups)
    assert made.axes[0].taps == tuple(sorted({t + gap * j for t in taps for j in (0, 1)}))
    inner = evaluate(v, x)
    wanted: Array = apply(inner, {**plain(weight, groups), "dilations": [gap]})
    np.testing.assert_allclose(evaluate(made, x), wanted, rtol=0, atol=1e-13)


def test_what_a_short_row_does_not_read_is_no_channel_of_the_union() -> None:
    v = reading([[0], [1, 2]])
    made = compose.conv(v, np.array([[1.0, 10.0]]))
    assert made.src.tolist() == [[0, 1, 2]]
    np.testing.assert_array_equal(made.kernel(), [[1.0, 10.0, 20.0]])
    nothing = replace(v, src=np.full((2, 1), -1), kernel=Lazy(lambda: np.zeros((2, 1))))
    assert compose.conv(nothing, np.ones((1, 2))).src.tolist() == [[-1]]


def test_magnitudes_add_up_whatever_the_signs() -> None:
    v = linconv.shift(linconv.identity(2, [5]), np.array([1.0, -1.0]))
    made = compose.conv(v, np.array([[[1.0, 1.0], [1.0, 1.0]]]), np.array([-3.0]))
    np.testing.assert_array_equal(made.bias, [-3.0])
    np.testing.assert_array_equal(made.bias_magnitude, [7.0])
    assert made.biased
    assert not compose.conv(linconv.identity(2, [5]), np.ones((1, 2, 1))).biased
    zero = compose.conv(linconv.identity(2, [5]), np.ones((1, 2, 1)), np.zeros(1))
    assert zero.biased, "whatever its value"
