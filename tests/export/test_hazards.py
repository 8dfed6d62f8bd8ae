"""What float16 breaks is named from ranges, and is what breaks when all is computed in float16."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_export.export.precision import rounded16
from attn_export.export.precision.accumulators import accumulated
from attn_export.export.precision.float16_policy import LARGEST, observe
from attn_export.export.precision.hazards import ACCUMULATOR, LEAST, NORMAL, hazards, too_few_bits
from attn_export.export.precision.rounded16 import Confirmation, confirm, rounded
from tests.export.test_equalise import build, draw, node, run


def forced(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Evaluate in float16 throughout."""
    low = onnx.ModelProto()
    low.CopyFrom(model)
    with np.errstate(all="ignore"):
        for tensor in low.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        for port in (*low.graph.input, *low.graph.output):
            port.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        del low.graph.value_info[:]
        return np.asarray(ReferenceEvaluator(low).run(None, {"x": x.astype(np.float16)})[0])


@pytest.mark.parametrize(
    ("up", "named"), [(1.0, {}), (1e5, {"a": "--equalize", "r": "--equalize", "y": "--equalize"}), (1e-9, {"a", "r"})]
)
def test_what_is_named_breaks_and_what_is_not_does_not(up: float, named: object) -> None:
    weights, x = {"w": draw(8, 8, scale=up, seed=1), "v": draw(8, 8, scale=1 / up, seed=2)}, draw(4, 8)
    model = build([node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("MatMul", "r v", "y")], weights, (4, 8))
    found = {hazard.node.name: hazard for hazard in hazards(model, observe(model, [{"x": x}]))}
    truth, came = run(model, x)[0], forced(model, x).astype(np.float64)
    near = np.linalg.norm(came - truth) < 0.01 * np.linalg.norm(truth)
    assert bool(near) is (not named)
    assert set(named) <= set(found) if named else not found  # type: ignore[call-overload]
    if isinstance(named, dict):
        assert all(text in found[name].remedy for name, text in named.items())


def confirmed(model: onnx.ModelProto, x: np.ndarray) -> tuple[set[str], Confirmation]:
    seen = observe(model, [{"x": x}])
    found = list(hazards(model, seen))
    return {one.node.name for one in found}, confirm(model, seen, [{"x": x}], [one.index for one in found])


def test_a_reduction_that_overflows_on_its_way_is_named_and_confirmed() -> None:
    """The mean is small; its sum is not, and float16 holds the sum."""
    model = build([node("ReduceMean", "x axes", "m"), node("Sub", "x m", "y")], {"axes": np.array([1])}, (2, 4096))
    x = draw(2, 4096) + np.float32(40)
    named, found = confirmed(model, x)
    assert named == {"m"}
    assert found.throughout_db is None
    assert found.kept_db is not None
    assert found.kept_db > 40


@pytest.mark.parametrize(("up", "lost"), [(1e-9, "which is 0 in float16"), (1e-6, "float16 keeps 4 of 11 bits")])
def test_what_vanishes_or_fades_is_named_and_confirmed(up: float, lost: str) -> None:
    nodes = [node("Mul", "x s", "a"), node("Mul", "a t", "y")]
    small, large = np.full(8, up, np.float32), np.full(8, 60000, np.float32)
    model = build(nodes, {"s": small, "t": large}, (4, 8))
    x = np.abs(draw(4, 8)) % 1
    seen = observe(model, [{"x": x}])
    found = {one.node.name: one for one in hazards(model, seen)}
    assert lost in found["a"].reason
    assert "power of two" in found["a"].remedy
    came = confirm(model, seen, [{"x": x}], [one.index for one in found.values()])
    assert came.throughout_db is not None
    assert came.throughout_db < 30 < came.kept_db  # type: ignore[operator]


@pytest.mark.parametrize("opset", [12, 13, 17])
def test_axes_of_a_mean_stand_in_an_attribute_before_opset_18(opset: int) -> None:
    model = build([node("ReduceMean", "x", "y", axes=[1], keepdims=0)], {}, (2, 4096))
    model.opset_import[0].version = opset
    named, found = confirmed(model, draw(2, 4096) + np.float32(40))
    assert (named, found.throughout_db, found.kept_db) == ({"y"}, None, 200.0)


def test_what_breaks_nothing_is_confirmed_to_break_nothing() -> None:
    named, found = confirmed(build([node("Relu", "x", "y")], {}, (4, 8)), draw(4, 8))
    assert not named
    assert found.throughout_db is not None
    assert found.throughout_db > 60
    assert found.throughout_db == found.kept_db


@pytest.mark.parametrize(
    ("op", "weights", "shape"),
    [
        ("MatMul", draw(4096, 8, scale=10, seed=1), (2, 4096)),
        ("Gemm", draw(4096, 8, scale=10, seed=1), (2, 4096)),
        ("Conv", draw(8, 64, 8, 8, scale=10, seed=1), (1, 64, 8, 8)),
    ],
)
def test_a_sum_that_may_overflow_on_its_way_is_named_where_the_result_does_not(op, weights, shape) -> None:
    nodes = [node(op, "x w", "y")]
    model, x = build(nodes, {"w": weights}, shape), draw(*shape, scale=3)
    seen, feeds = observe(model, [{"x": x}]), [{"x": x}]
    assert seen["y"].largest < LARGEST
    sums = accumulated(model, seen, feeds)
    flat = np.abs(x).reshape(len(x), -1).astype(np.float64)
    truth = flat @ np.abs(weights).reshape(-1, flat.shape[1]).T if op == "Conv" else flat @ np.abs(weights)
    assert sums[0] == pytest.approx(truth.max(), rel=1e-5)
    assert [one.rule for one in hazards(model, seen, sums)] == [ACCUMULATOR]
    assert not list(hazards(model, seen, {0: LARGEST}))


def test_the_rounding_is_that_of_numpy() -> None:
    model = build([node("Mul", "x w", "y")], {"w": draw(8, seed=3)}, (4, 8))
    x = draw(4, 8)
    half = (x.astype(np.float16) * draw(8, seed=3).astype(np.float16)).astype(np.float32)
    (came,) = rounded16.run(rounded(model, observe(model, [{"x": x}])), [{"x": x}])
    assert np.array_equal(came["y"], half)
    assert LEAST < NORMAL


def test_a_node_whose_rounding_alone_is_too_much_is_found() -> None:
    """What a norm enlarges lies close together: the ranges are harmless, and eleven bits are too few."""
    nodes = [node("Relu", "x", "r"), node("Add", "r far", "a"), node("Sub", "a far", "s"), node("Mul", "s up", "y")]
    model = build(nodes, {"far": np.float32(100), "up": np.float32(64)}, (4, 64))
    x = draw(4, 64, scale=0.05)
    seen, feeds = observe(model, [{"x": x}]), [{"x": x}]
    assert not list(hazards(model, seen))
    assert confirm(model, seen, feeds, []).throughout_db < 40  # type: ignore[operator]
    (found,) = rounded16.culprits(model, seen, feeds, [], 40.0)
    assert model.graph.node[found.index].name == "a"
    assert found.before_db > 40 > found.after_db  # type: ignore[operator]
    assert confirm(model, seen, feeds, [found.index]).kept_db > 40  # type: ignore[operator]
    assert "eleven bits are too few" in too_few_bits(model, found).reason
    assert rounded16.culprits(model, seen, feeds, [found.index], 40.0) == []
