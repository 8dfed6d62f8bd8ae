"""What each operator does to a convolution of the root, against what it means in float64: or why it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from attn_export.reparam import ir
from attn_export.reparam.algebra import compose, linconv, positions
from attn_export.reparam.algebra.layout import Layout, channels_first, channels_last
from attn_export.reparam.algebra.linconv import BORDER, NotFusibleError
from attn_export.reparam.algebra.state import State
from attn_export.reparam.algebra.transfer import start, transfer
from attn_export.reparam.evaluate import ir as meaning
from tests.reparam.test_linconv import Array, evaluate

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 4, 6, 7))
NONE = ((0, 0), (0, 0))
Step = tuple[ir.Op, tuple[int, ...] | None]


def weight(*shape: int) -> Array:
    return np.random.default_rng(list(shape)).standard_normal(shape)


def begun(*, border_maps: bool = False, dynamic: bool = False, last: bool = False) -> State:
    shape = ["b", 4, "h", "w"] if dynamic else [2, 4, 6, 7]
    place = channels_last([shape[0], *shape[2:], 4]) if last else channels_first(shape)  # type: ignore[list-item]
    assert place is not None
    return start([shape[0], *shape[2:], 4] if last else shape, place, border_maps=border_maps)  # type: ignore[list-item]


def laid(values: Array, place: Layout) -> Array:
    """``(b, c, *space)`` as it lies in the tensor."""
    (batch,) = [n for n, axis in enumerate(place.axes) if any(a.kind == "b" for a in axis)]
    return np.concatenate([positions.lay(item, place) for item in values], axis=batch)


def holds(ops: Sequence[ir.Op | tuple[int, ...]], *, last: bool = False, border_maps: bool = False) -> State:
    """Apply operators to the root (a tuple is a new shape), and compare with what they mean."""
    state, y = begun(last=last, border_maps=border_maps), torch.from_numpy(X.transpose(0, 2, 3, 1) if last else X)
    for op in ops:
        y = y.reshape(op) if isinstance(op, tuple) else meaning.apply(op, [y])
        state = transfer(ir.Reshape() if isinstance(op, tuple) else op, [state], tuple(y.shape))
    got = laid(evaluate(state.lin, X), state.layout)
    assert got.shape == tuple(y.shape)
    np.testing.assert_allclose(got, y.numpy(), rtol=0, atol=1e-12)
    return state


def refused(op: ir.Op, state: State, shape: tuple[int, ...] | None = None) -> str:
    with pytest.raises(NotFusibleError) as caught:
        transfer(op, [state], shape)
    return str(caught.value)


CONV = ir.Conv(weight(6, 2, 2, 3), weight(6), (1, 2), (2, 1), 2, ((1, 0), (0, 2)))
CASES: dict[str, Sequence[ir.Op | tuple[int, ...]]] = {
    "conv": [CONV],
    "conv of a turned image": [ir.Transpose((0, 1, 3, 2)), CONV],
    "scale and shift": [CONV, ir.Affine(weight(6, 1, 1), weight(1, 6, 1, 1), None), ir.Affine(weight(6), None, 1)],
    "pad": [ir.Pad(((0, 0), (0, 0), (2, 1), (0, 3)), 0.0)],
    "crop": [ir.Pad(((0, 0), (0, 0), (-2, 1), (0, -3)), 0.0)],
    "slice from the front": [ir.Slice(2, 2, None), ir.Slice(3, 1, 6)],
    "slice from the end": [ir.Slice(2, -4, -1), ir.Slice(3, 0, -2)],
    "every other": [ir.Slice(2, 1, None, 2), ir.Slice(3, 0, 6, 3)],
    "some channels": [ir.Slice(1, 1, None), ir.Slice(1, 0, 2)],
    "every other channel": [ir.Slice(1, 0, None, 2)],
    "channels by number": [ir.Take(1, np.array([3, 0, 0, 2]))],
    "average": [ir.AvgPool((2, 3), (2, 1), ((1, 1), (0, 1)), True, False)],
    "ceil that changes nothing": [ir.AvgPool((2, 3), (2, 1), NONE, True, True)],
    "to depth": [ir.Slice(3, 0, 6), ir.SpaceToDepth(2, True)],
    "to depth, the other order": [ir.Slice(3, 0, 6), ir.SpaceToDepth(2, False)],
    "tokens": [CONV, (2, 6, 20), ir.Transpose((0, 2, 1)), ir.Linear(weight(6, 3), weight(3))],
    "tokens and back": [CONV, (2, 6, 20), ir.Transpose((0, 2, 1)), ir.Transpose((0, 2, 1)), (2, 6, 5, 4)],
    "shuffled channels": [(2, 2, 2, 6, 7), ir.Transpose((0, 2, 1, 3, 4)), (2, 4, 6, 7), CONV],
    "halves": [(2, 2, 2, 6, 7), ir.Slice(2, 1, None), (2, 2, 6, 7)],
}


@pytest.mark.parametrize("name", CASES)
def test_what_an_operator_makes_is_what_it_means(name: str) -> None:
    holds(CASES[name])


def test_channels_may_come_last() -> None:
    holds([ir.Linear(weight(4, 3), weight(3)), ir.Transpose((0, 3, 1, 2)), ir.Slice(2, 1, 4)], last=True)


def test_matrices_of_vectors_without_space_are_one_matrix() -> None:
    x = np.random.default_rng(1).standard_normal((3, 4))
    place = channels_first([3, 4])
    assert place is not None
    ops = [ir.Take(1, np.array([2, 0, 1, 3])), ir.Linear(weight(4, 5), weight(5)), ir.Linear(weight(5, 2), None)]
    for count in (2, 3):
        state, y = start([3, 4], place), torch.from_numpy(x)
        for op in ops[:count]:
            y = meaning.apply(op, [y])
            state = transfer(op, [state], tuple(y.shape))
        np.testing.assert_allclose(evaluate(state.lin, x), y.numpy(), rtol=0, atol=1e-13)


def test_sums_have_factors_and_concatenations_an_order() -> None:
    one, y = begun(), torch.from_numpy(X)
    two = transfer(ir.Take(1, np.array([1, 0, 3, 2])), [one], X.shape)
    z = y[:, [1, 0, 3, 2]]
    for op in (ir.Sum((1.0, -2.0)), ir.Concat(1)):
        want = meaning.apply(op, [y, z])
        made = transfer(op, [one, two], tuple(want.shape))
        np.testing.assert_allclose(laid(evaluate(made.lin, X), made.layout), want.numpy(), rtol=0, atol=1e-13)
    half = transfer(ir.Sum((0.5,)), [one], X.shape)
    np.testing.assert_array_equal(evaluate(half.lin, X), X / 2)
    split = [transfer(ir.Reshape(), [s], (2, 2, 2, 6, 7)) for s in (one, two)]
    want = torch.cat([y.reshape(2, 2, 2, 6, 7), z.reshape(2, 2, 2, 6, 7)], 2)
    made = transfer(ir.Concat(2), split, tuple(want.shape))
    np.testing.assert_allclose(laid(evaluate(made.lin, X), made.layout), want.numpy(), rtol=0, atol=1e-13)
    turned = transfer(ir.Transpose((0, 1, 3, 2)), [one], (2, 4, 7, 6))
    for op, said in ((ir.Sum((1.0, 1.0)), "summed in different"), (ir.Concat(1), "joined in different")):
        with pytest.raises(NotFusibleError, match=said):
            transfer(op, [one, turned], None)
    with pytest.raises(NotFusibleError, match="along space or batch"):
        transfer(ir.Concat(2), [one, two], None)


@pytest.mark.parametrize("turned", [False, True])
def test_a_constant_that_differs_between_positions_is_a_border_map_where_it_may(turned: bool) -> None:
    before = [ir.Transpose((0, 1, 3, 2))] if turned else []
    size = (4, 7, 6) if turned else (4, 6, 7)
    for term in (weight(*size), weight(1, *size), weight(size[2]), weight(1, size[1], 1)):
        made = holds([*before, ir.Affine(None, term, None)], border_maps=True)
        assert BORDER in made.lin.notes
    tokens: list[ir.Op | tuple[int, ...]] = [*before, (2, 4, 42), ir.Transpose((0, 2, 1))]
    made = holds([*tokens, ir.Affine(None, weight(42, 4), None)], border_maps=True)
    assert BORDER in made.lin.notes
    op = ir.Affine(None, weight(*size), None)
    state = begun() if not turned else transfer(before[0], [begun()], (2, 4, 7, 6))
    assert refused(op, state)
    with pytest.raises(NotFusibleError) as caught:
        transfer(op, [state], None)
    assert "--border-maps" in caught.value.remedy


def test_a_constant_may_not_differ_between_items_or_enlarge() -> None:
    state = begun(border_maps=True)
    for shape in ((2, 4, 6, 7), (3, 1, 1, 1, 7), (4, 6, 14)):
        assert "differs between batch items, or makes the tensor larger" in refused(
            ir.Affine(None, weight(*shape), None), state
        )


@pytest.mark.parametrize("dims", [(0, 1), (1, 0)])
def test_a_border_map_is_read_as_it_is_laid(dims: tuple[int, int]) -> None:
    place = begun().layout
    if dims == (1, 0):
        place = Layout((place.axes[0], place.axes[3], place.axes[1], place.axes[2]))
    values = weight(4, 6, 7)
    np.testing.assert_array_equal(positions.read(positions.lay(values, place), place, None, (6, 7)), values)
    rows = weight(4)
    channel = next(n for n, axis in enumerate(place.axes) if axis[0].kind == "c")
    spread = positions.read(rows, place, channel, (6, 7))
    np.testing.assert_array_equal(spread, np.broadcast_to(rows[:, None, None], (4, 6, 7)))


def test_one_border_map_serves_every_item_only_where_the_batch_is_apart() -> None:
    place = begun().layout
    positions.check(place)
    merged = Layout(((*place.axes[0], *place.axes[2]), place.axes[1], place.axes[3]))
    with pytest.raises(NotFusibleError, match="batch and space share an axis"):
        positions.check(merged)


def test_what_is_refused_is_said() -> None:
    fixed, free = begun(), begun(dynamic=True)
    assert refused(ir.Opaque("Softmax"), fixed) == "Softmax is not linear, or not known to be"
    assert refused(ir.Reshape(), fixed) == "it is reshaped to a shape that is not known"
    assert refused(ir.Slice(1, 2, 2), fixed) == refused(ir.Slice(2, 3, 3), fixed) == "an empty slice"
    for op in (ir.Slice(2, 0, 3), ir.Slice(2, -3, None)):
        assert "other end of a dynamic axis" in refused(op, free)
    for op in (ir.Take(2, np.array([0])), ir.Slice(2, 5, None, -1)):
        assert "one by one" in refused(op, fixed)
    assert refused(ir.Pad(((0, 0), (1, 0), (0, 0), (0, 0)), 0.0), fixed) == "channels are padded"
    assert "divides by fewer positions" in refused(ir.AvgPool((2, 2), (1, 1), ((0, 1), (0, 0)), False, False), fixed)
    assert "hangs over the border" in refused(ir.AvgPool((2, 2), (2, 2), NONE, True, True), fixed)
    assert "this axis is dynamic" in refused(ir.AvgPool((2, 2), (2, 2), NONE, True, True), free)
    assert refused(ir.Linear(weight(4, 3), None), fixed) == "its last axis does not hold the channels alone"
    assert refused(ir.Linear(weight(5, 3), None), begun(last=True)) == "a matrix of another height"
    assert refused(CONV, begun(last=True)) == "its second axis does not hold the channels"


def test_what_holds_for_some_sizes_only_is_noted() -> None:
    assert transfer(ir.Slice(2, 0, 4), [begun()], None).lin.notes == {"static"}
    assert transfer(ir.Slice(2, 1, None), [begun(dynamic=True)], None).lin.notes == frozenset()
    assert transfer(ir.Slice(2, 0, -1), [begun(dynamic=True)], None).lin.notes == frozenset()
    assert transfer(ir.AvgPool((2, 3), (2, 1), NONE, True, True), [begun()], None).lin.notes == {"static"}
    assert transfer(ir.AvgPool((2, 3), (2, 1), NONE, True, False), [begun()], None).lin.notes == frozenset()
    assert transfer(ir.AvgPool((2, 2), (1, 1), NONE, True, True), [begun(dynamic=True)], None).lin.notes == frozenset()


def test_an_average_may_divide_by_another_number() -> None:
    made = transfer(ir.AvgPool((2, 2), (1, 1), NONE, True, False, 8.0), [begun()], None)
    plain = transfer(ir.AvgPool((2, 2), (1, 1), NONE, True, False), [begun()], None)
    np.testing.assert_allclose(made.lin.kernel(), plain.lin.kernel() / 2)


def test_a_kernel_of_another_rank_is_an_error() -> None:
    v: Any = linconv.identity(1, [5])
    for options in ({"strides": [1, 1]}, {"dilations": [1, 1]}):
        with pytest.raises(ValueError, match="zip"):
            compose.conv(v, np.ones((1, 1, 3)), **options)
