"""The algebra of convolutions keeps the function: every law in float64, over kernels, strides, paddings, groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from attn_export.errors import FusionError
from attn_export.reparam.algebra import (
    Array,
    Convolution,
    add,
    affine,
    batch_norm,
    identity,
    regroup,
    spread,
    widen,
)

small = st.integers(0, 2)
pairs = st.tuples(small, small)


@st.composite
def convolutions(
    draw: Callable[..., object], out: int = 4, channels: int = 4, stride: tuple[int, int] | None = None
) -> Convolution:
    def pick(strategy: st.SearchStrategy[object]) -> object:
        return draw(strategy)

    groups = pick(st.sampled_from([1, 2, 4]))
    kernel = (pick(st.integers(1, 3)), pick(st.integers(1, 3)))
    random = np.random.default_rng(pick(st.integers(0, 1000)))  # type: ignore[arg-type]
    return Convolution(
        random.standard_normal((out, channels // groups, *kernel)),  # type: ignore[operator,misc]
        random.standard_normal(out),
        stride or (pick(st.integers(1, 2)), pick(st.integers(1, 2))),  # type: ignore[arg-type]
        (pick(pairs), pick(pairs)),  # type: ignore[arg-type]
        (pick(st.integers(1, 2)), pick(st.integers(1, 2))),  # type: ignore[arg-type]
        groups,  # type: ignore[arg-type]
    )


def apply(convolution: Convolution, x: Array) -> Array:
    (top, bottom), (left, right) = convolution.padding
    padded = F.pad(torch.from_numpy(x), (left, right, top, bottom))
    weight, bias = torch.from_numpy(convolution.weight), torch.from_numpy(convolution.bias)
    return F.conv2d(padded, weight, bias, convolution.stride, 0, convolution.dilation, convolution.groups).numpy()


X = np.random.default_rng(0).standard_normal((2, 4, 9, 11))


def same(one: Array, other: Array) -> None:
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= 1e-12 * np.abs(one).max()


@given(convolutions())
def test_spreading_the_dilation_keeps_the_function(c: Convolution) -> None:
    assert spread(c).dilation == (1, 1)
    same(apply(spread(c), X), apply(c, X))


@given(convolutions(), pairs, pairs)
def test_widening_keeps_the_function(c: Convolution, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    (top, bottom), (left, right) = c.padding
    wider = widen(c, ((top + rows[0], bottom + rows[1]), (left + columns[0], right + columns[1])))
    same(apply(wider, X), apply(c, X))


@given(convolutions(), st.sampled_from([1, 2, 4]))
def test_regrouping_keeps_the_function(c: Convolution, groups: int) -> None:
    assume(c.groups % groups == 0)
    regrouped = regroup(c, groups)
    assert regrouped.groups == groups
    same(apply(regrouped, X), apply(c, X))


@given(convolutions(), st.integers(0, 99))
def test_affine_follows_the_convolution(c: Convolution, seed: int) -> None:
    scale, shift = np.random.default_rng(seed).standard_normal((2, 4))
    same(apply(affine(c, scale, shift), X), apply(c, X) * scale[:, None, None] + shift[:, None, None])


@given(st.data())
def test_the_sum_is_the_sum(data: st.DataObject) -> None:
    one = data.draw(convolutions())
    other = data.draw(convolutions(stride=one.stride))
    first, second = apply(one, X), apply(other, X)
    try:
        total = add(one, other)
    except FusionError:
        # Refused only where the outputs differ in size, at this size or at another one.
        taller = np.random.default_rng(1).standard_normal((1, 4, 10, 12))
        assert first.shape != second.shape or apply(one, taller).shape != apply(other, taller).shape
        return
    same(apply(total, X), first + second)


@given(st.sampled_from([1, 2, 4]))
def test_identity_returns_its_input(groups: int) -> None:
    same(apply(identity(4, groups), X), X)


@given(st.integers(0, 99), st.floats(1e-6, 1e-1))
def test_batch_norm_is_pytorchs(seed: int, epsilon: float) -> None:
    random = np.random.default_rng(seed)
    gamma, beta, mean = random.standard_normal((3, 4))
    variance = random.uniform(0.5, 2, 4)
    scale, shift = batch_norm(gamma, beta, mean, variance, epsilon)
    wanted = F.batch_norm(*map(torch.from_numpy, (X, mean, variance, gamma, beta)), eps=epsilon).numpy()
    same(X * scale[:, None, None] + shift[:, None, None], wanted)


def test_what_cannot_be_is_refused_with_its_reason() -> None:
    one = Convolution(np.ones((4, 4, 3, 3)), np.zeros(4), padding=((1, 1), (1, 1)))
    with pytest.raises(FusionError, match="lie on different grids"):
        add(one, Convolution(one.weight, one.bias, (2, 2), one.padding))
    with pytest.raises(FusionError, match="differ in size"):
        add(one, Convolution(one.weight, one.bias))
    with pytest.raises(FusionError, match=r"channels \(out, in\)"):
        add(one, Convolution(np.ones((4, 2, 3, 3)), np.zeros(4), padding=one.padding))
    with pytest.raises(FusionError, match="cannot shrink"):
        widen(one, ((0, 0), (1, 1)))
    with pytest.raises(FusionError, match="1 groups cannot be written as 2"):
        regroup(one, 2)
