"""What makes several positions of one: on the coarse grid exactly what PyTorch makes on the fine one, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from attn_export.reparam import ir
from attn_export.reparam.algebra import linconv, transfer, upsample
from attn_export.reparam.algebra.layout import channels_first
from attn_export.reparam.algebra.linconv import NotFusibleError
from attn_export.reparam.algebra.state import State
from attn_export.reparam.evaluate import ir as execute
from tests.reparam.test_linconv import FEW, Array, evaluate

Made = tuple[State, Array, Array]


def shown(state: State, x: Array) -> Array:
    """The coarse convolution by its defining sum, laid out over the finer grid."""
    coarse, how = evaluate(state.lin, x), state.upsampling
    assert how is not None
    if how.kind == "repeat":
        for axis, factor in enumerate(how.factors):
            coarse = coarse.repeat(factor, axis + 2)
        return coarse
    rank = len(how.factors)
    split = coarse.reshape(len(x), -1, *how.factors, *coarse.shape[2:])
    order = [n for axis in range(rank) for n in (2 + rank + axis, 2 + axis)]
    sizes = [n * f for n, f in zip(coarse.shape[2:], how.factors, strict=True)]
    fine = split.transpose(0, 1, *order).reshape(len(x), -1, *sizes)
    return fine[(slice(None), slice(None), *(slice(0, n - cut) for n, cut in zip(sizes, how.trim, strict=True)))]


def apply(op: ir.Op, *arrays: Array) -> Array:
    return execute.apply(op, [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]).numpy()


@st.composite
def deconvolutions(draw: Any, channels: int, rank: int) -> ir.ConvTranspose:
    """A transposed convolution: groups, kernel, stride, dilation, uneven paddings, additions at the end."""
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    width, rng = draw(st.integers(1, 3)), np.random.default_rng(draw(st.integers(0, 2**16)))
    kernel = [draw(st.integers(1, 5)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    gaps = [draw(st.integers(1, 2)) for _ in range(rank)]
    reach = [d * (k - 1) for k, d in zip(kernel, gaps, strict=True)]
    pads = [(draw(st.integers(0, r)), draw(st.integers(0, r))) for r in reach]
    extra = [draw(st.integers(0, s - 1)) for s in strides]
    bias = rng.standard_normal(groups * width) if draw(st.booleans()) else None
    weight = rng.standard_normal((channels, width, *kernel))
    return ir.ConvTranspose(weight, bias, tuple(strides), tuple(gaps), groups, tuple(pads), tuple(extra))


@st.composite
def enlarged(draw: Any) -> Made:
    """An enlarged value, its root, and what PyTorch makes of it."""
    rank, channels = draw(st.sampled_from([1, 2])), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["deconv", "deconv", "shuffle", "repeat"]))
    if kind == "shuffle":
        rank, channels = 2, 4 * draw(st.integers(1, 2))
    sizes = [draw(st.sampled_from([1, 4, 5, 6, 7])) for _ in range(rank)]
    batch = draw(st.integers(1, 2))
    x = np.random.default_rng(draw(st.integers(0, 2**16))).standard_normal((batch, channels, *sizes))
    op: ir.DepthToSpace | ir.Upsample | ir.ConvTranspose
    if kind == "deconv":
        op = enlarge = draw(deconvolutions(channels, rank))
        pairs = zip(sizes, enlarge.strides, enlarge.dilations, enlarge.weight.shape[2:], enlarge.pads, strict=True)
        assume(all((n - 1) * s + d * (k - 1) + 1 - left - right > 0 for n, s, d, k, (left, right) in pairs))
    elif kind == "shuffle":
        op = ir.DepthToSpace(2, crd=draw(st.booleans()))
    else:
        op = ir.Upsample(tuple(draw(st.integers(1, 3)) for _ in range(rank)))
    root_layout = channels_first(x.shape)
    assert root_layout is not None
    return transfer.transfer(op, [transfer.start(x.shape, root_layout)], None), x, apply(op, x)


def close(state: State, x: Array, wanted: Array) -> None:
    got = shown(state, x)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-13 * max(1.0, np.abs(wanted).max())


@FEW
@given(enlarged())
def test_enlarging(made: Made) -> None:
    close(*made)


@FEW
@given(enlarged(), st.data())
def test_what_treats_all_positions_alike_goes_before(made: Made, data: Any) -> None:
    state, x, y = made
    rng, channels, rank = np.random.default_rng(data.draw(st.integers(0, 2**16))), y.shape[1], y.ndim - 2
    groups = data.draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    weight = rng.standard_normal((2 * groups, channels // groups, *(1,) * rank))
    ops: list[ir.Op] = [
        ir.Affine(rng.standard_normal(channels), rng.standard_normal(channels), axis=1),
        ir.Conv(weight, rng.standard_normal(2 * groups), (1,) * rank, (1,) * rank, groups, ((0, 0),) * rank),
        ir.Slice(1, 0, channels - channels // 2),
        ir.Take(1, rng.integers(0, channels, channels + 1)),
    ]
    op = data.draw(st.sampled_from(ops))
    once, z = transfer.transfer(op, [state], None), apply(op, y)
    close(once, x, z)
    twice = ir.Sum((1.0, -0.5))
    close(transfer.transfer(twice, [once, once], None), x, apply(twice, z, z))
    both = ir.Concat(1)
    close(transfer.transfer(both, [once, state], None), x, apply(both, z, y))


@FEW
@given(enlarged(), st.integers(0, 2**16))
def test_a_transposed_convolution_comes_back(made: Made, seed: int) -> None:
    state, x, y = made
    how = state.upsampling
    assert how is not None
    assume(how.kind == "transposed")
    factor = np.random.default_rng(seed).standard_normal(y.shape[1])
    scaled = transfer.transfer(ir.Affine(factor, None, axis=1), [state], None)
    try:
        op = upsample.transposed(scaled.lin, how)
    except NotFusibleError as error:
        if "border" not in error.reason:
            raise
        return
    wanted, got = y * factor.reshape(1, -1, *(1,) * (y.ndim - 2)), apply(op, x)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-13 * max(1.0, np.abs(wanted).max())


def start(bias: bool) -> State:
    """A 1×1 with or without a bias on two channels."""
    lin = linconv.identity(2, [None, None])
    root_layout = channels_first((2, 2, "h", "w"))
    assert root_layout is not None
    return State(linconv.shift(lin, np.ones(2)) if bias else lin, root_layout)


def test_a_bias_before_overlapping_taps_is_refused_and_before_others_differs_by_phase() -> None:
    wide = ir.ConvTranspose(np.ones((2, 1, 4, 4)), None, (2, 2), (1, 1), 1, ((1, 1),) * 2, (0, 0))
    with pytest.raises(NotFusibleError, match="padded with 0 where its bias makes 1"):
        upsample.begin(wide, start(bias=True))
    weight = np.arange(8.0).reshape(2, 1, 2, 2)
    tight = ir.ConvTranspose(weight, None, (2, 2), (1, 1), 1, ((0, 0),) * 2, (0, 0))
    state = upsample.begin(tight, start(bias=True))
    assert state.upsampling is not None
    with pytest.raises(NotFusibleError, match="differs between the phases"):
        upsample.transposed(state.lin, state.upsampling)


def test_what_tells_positions_apart_is_refused_with_a_way_out() -> None:
    state = upsample.begin(ir.Upsample((2, 2)), start(bias=False))
    wide = ir.Conv(np.ones((2, 2, 3, 3)), None, (1, 1), (1, 1), 1, ((1, 1), (1, 1)))
    with pytest.raises(NotFusibleError, match="tells positions of one channel apart") as caught:
        transfer.transfer(wide, [state], None)
    assert caught.value.remedy
    with pytest.raises(NotFusibleError, match="enlarged in different ways"):
        transfer.transfer(ir.Sum((1.0, 1.0)), [state, start(bias=False)], None)
