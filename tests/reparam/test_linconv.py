"""Each operator of the algebra against its meaning in PyTorch float64, by the definition of the algebra itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from attn_export.reparam.algebra import compose, linconv, sums
from attn_export.reparam.algebra.linconv import LinConv, NotFusibleError

Array = np.ndarray[Any, Any]
FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def evaluate(v: LinConv, x: Array) -> Array:
    """The defining sum, written out: v[o, q] = b[o] + Σ K[o, i, t] · x̃[src(o, i), s·q + taps[t]]."""
    lengths = [a.length(n) for a, n in zip(v.axes, x.shape[2:], strict=True)]
    far = 64
    wide = np.pad(x, ((0, 0), (0, 0), *((far, far),) * len(v.axes)))
    kernel = v.kernel()
    result = np.broadcast_to(v.bias.reshape(1, -1, *(1,) * len(v.axes)), (len(x), v.outputs, *lengths)).copy()
    if v.border_map is not None:
        result += v.border_map()
    for o in range(v.outputs):
        for i in range(v.width):
            channel = v.src[v.grp[o], i]
            if channel < 0:
                assert not kernel[o, i].any()
                continue
            for taps in product(*(range(len(a.taps)) for a in v.axes)):
                cut = tuple(
                    slice(far + a.taps[t], far + a.taps[t] + a.stride * n, a.stride)
                    for a, t, n in zip(v.axes, taps, lengths, strict=True)
                )
                result[:, o] += kernel[(o, i, *taps)] * wide[(slice(None), channel, *cut)]
    return result


@st.composite
def convolutions(draw: Any, channels: int, rank: int) -> dict[str, Any]:
    """A convolution that fits ``channels``: groups, kernel, stride, dilation, weights and bias."""
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    outputs = groups * draw(st.integers(1, 3))
    kernel = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    return {
        "weight": rng.standard_normal((outputs, channels // groups, *kernel)),
        "bias": rng.standard_normal(outputs) if draw(st.booleans()) else None,
        "strides": [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)],
        "dilations": [draw(st.sampled_from([1, 1, 2])) for _ in range(rank)],
        "groups": groups,
    }


def apply(x: Array, conv: dict[str, Any]) -> Array:
    bias = None if conv["bias"] is None else torch.from_numpy(conv["bias"])
    function = {1: F.conv1d, 2: F.conv2d}[x.ndim - 2]
    y = function(
        torch.from_numpy(x),
        torch.from_numpy(conv["weight"]),
        bias,
        conv["strides"],
        0,
        conv["dilations"],
        conv["groups"],
    )
    return y.numpy()


@st.composite
def values(draw: Any) -> tuple[LinConv, Array, Array]:
    """A value of the algebra after a padding and a convolution, with its root and what PyTorch makes of it."""
    rank = draw(st.sampled_from([1, 2]))
    channels = draw(st.integers(1, 4))
    sizes = [draw(st.integers(7, 11)) for _ in range(rank)]
    pads = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(rank)]
    fixed = draw(st.booleans())
    x = np.random.default_rng(draw(st.integers(0, 2**16))).standard_normal((2, channels, *sizes))
    v, y = linconv.identity(channels, [n if fixed else None for n in sizes]), x
    for dim, (left, right) in enumerate(pads):
        v = linconv.pad(v, dim, left, right)
    y = np.pad(y, ((0, 0), (0, 0), *pads))
    conv = draw(convolutions(channels, rank))
    return compose.conv(v, **conv), x, apply(y, conv)


def close(v: LinConv, x: Array, wanted: Array) -> None:
    got = evaluate(v, x)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-13 * max(1.0, np.abs(wanted).max())


@FEW
@given(values())
def test_padding_then_convolution(value: tuple[LinConv, Array, Array]) -> None:
    close(*value)


@FEW
@given(values(), st.data())
def test_convolution_of_a_convolution(value: tuple[LinConv, Array, Array], data: Any) -> None:
    v, x, y = value
    conv = data.draw(convolutions(v.outputs, len(v.axes)))
    reach = [d * (k - 1) + 1 for d, k in zip(conv["dilations"], conv["weight"].shape[2:], strict=True)]
    assume(all(n >= r for n, r in zip(y.shape[2:], reach, strict=True)))
    close(compose.conv(v, **conv), x, apply(y, conv))


@FEW
@given(values(), st.integers(0, 2**16))
def test_scale_shift_rows(value: tuple[LinConv, Array, Array], seed: int) -> None:
    v, x, y = value
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal(v.outputs), rng.standard_normal(v.outputs)
    index = rng.integers(0, v.outputs, v.outputs + 1)
    shape = (1, -1, *(1,) * len(v.axes))
    close(
        linconv.rows(linconv.shift(linconv.scale(v, a), b), index),
        x,
        (y * a.reshape(shape) + b.reshape(shape))[:, index],
    )


@FEW
@given(values(), st.integers(0, 2**16))
def test_sums_and_concatenations_of_different_branches(value: tuple[LinConv, Array, Array], seed: int) -> None:
    v, x, y = value
    rng = np.random.default_rng(seed)
    ones = rng.standard_normal((v.outputs, v.outputs, *(1,) * len(v.axes)))
    thin = rng.standard_normal((v.outputs, 1, *(1,) * len(v.axes)))
    other, z = compose.conv(v, ones), apply(y, plain(ones, 1))
    third, w = compose.conv(v, thin, groups=v.outputs), apply(y, plain(thin, v.outputs))
    close(sums.add([v, other, third]), x, y + z + w)
    close(sums.concat([third, v, other]), x, np.concatenate([w, y, z], axis=1))
    close(sums.add([sums.concat([v, third]), sums.concat([third, v])]), x, np.concatenate([y + w, w + y], axis=1))


def plain(weight: Array, groups: int) -> dict[str, Any]:
    rank = weight.ndim - 2
    return {"weight": weight, "bias": None, "strides": [1] * rank, "dilations": [1] * rank, "groups": groups}


@FEW
@given(values(), st.integers(-2, 2), st.integers(-2, 2), st.sampled_from([0.0, 1.0, "bias"]))
def test_padding_is_exact_or_refused(value: tuple[LinConv, Array, Array], left: int, right: int, what: Any) -> None:
    v, x, y = value
    assume(y.shape[2] + min(left, 0) + min(right, 0) >= 1)
    constant = v.bias if what == "bias" else what
    cropped = y[:, :, max(0, -left) : y.shape[2] - max(0, -right)]
    shape = (*cropped.shape[:2], cropped.shape[2] + max(0, left) + max(0, right), *cropped.shape[3:])
    full = np.broadcast_to(np.reshape(constant, (1, -1, *(1,) * len(v.axes))), shape).copy()
    full[:, :, max(0, left) : shape[2] - max(0, right)] = cropped
    try:
        padded = linconv.pad(v, 0, left, right, constant)
    except NotFusibleError:
        padded = None
    assert padded is not None or left > 0 or right > 0, "a crop is always exact"
    if padded is not None:
        close(padded, x, full)


@FEW
@given(values(), st.integers(1, 3))
def test_stride(value: tuple[LinConv, Array, Array], step: int) -> None:
    v, x, y = value
    close(linconv.stride(v, 0, step), x, y[:, :, ::step])


def test_padding_a_bias_is_refused_with_a_way_out() -> None:
    v = linconv.shift(linconv.identity(2, [None]), np.array([0.0, 0.5]))
    with pytest.raises(NotFusibleError, match=r"padded with 0 where its bias makes 0\.5") as caught:
        linconv.pad(v, 0, 1, 1)
    assert "bias" in caught.value.remedy


def test_padding_twice_is_refused() -> None:
    v = compose.conv(linconv.pad(linconv.identity(1, [None]), 0, 1, 1), np.ones((1, 1, 3)))
    with pytest.raises(NotFusibleError, match="past the left border"):
        linconv.pad(v, 0, 1, 1)


def test_what_holds_for_one_size_only_is_noted_or_refused() -> None:
    wide = compose.conv(linconv.pad(linconv.identity(1, [9]), 0, 0, 1), np.ones((1, 1, 2)), strides=[2])
    thin = compose.conv(linconv.identity(1, [9]), np.ones((1, 1, 1)), strides=[2])
    both = sums.add([wide, linconv.with_axis(thin, 0, replace(thin.axes[0], extent=0))])
    assert "static" not in both.notes or both.axes[0].length(9) == 5
    free = [replace(v, axes=(replace(v.axes[0], size=None, extent=e),)) for v, e in ((wide, -1), (thin, 0))]
    with pytest.raises(NotFusibleError, match="dynamic"):
        sums.add(free)


def test_kernels_are_built_when_asked_for_only() -> None:
    v = compose.conv(linconv.identity(512, [None]), np.zeros((512, 512, 3)))
    assert v.kernel._value is None
