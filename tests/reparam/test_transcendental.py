"""Functions as exact as runtimes compute them: moved by a share of their range, and by nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.reparam.evaluate.transcendental import ACCURACY, Kind, Signs, found_in, stray

X = np.linspace(0.01, 0.99, 1000, dtype=np.float32).reshape(10, 100)


@pytest.mark.parametrize(
    ("kind", "amount"),
    [
        ("range", np.ones_like(X)),
        ("row", np.broadcast_to(X.max(1, keepdims=True), X.shape)),
        ("input", np.abs(2 * X)),
        ("one", np.maximum(np.abs(X), 1)),
        ("value", np.abs(X)),
    ],
)
def test_every_number_moves_by_its_share(kind: Kind, amount: np.ndarray) -> None:
    moved = stray(kind, X.copy(), 2 * X, 1, Signs("either")).astype(np.float64) - X
    assert np.abs(moved) == pytest.approx(ACCURACY * amount, abs=2.0**-25)
    assert 0.4 < float(np.mean(moved > 0)) < 0.6, "up or down"


def test_errors_of_one_sign_do_not_average_out() -> None:
    either, up = (stray("range", X.copy(), X, 1, Signs(way)).astype(np.float64) - X for way in ("either", "up"))
    assert float(up.mean()) == pytest.approx(ACCURACY, rel=0.1)
    assert abs(float(either.mean())) < ACCURACY / 8


@pytest.mark.parametrize("kind", ["range", "row", "input", "one", "value"])
def test_what_is_not_finite_stays_so(kind: Kind) -> None:
    odd = np.array([[np.inf, -np.inf, np.nan, 1.0]], np.float32)
    moved = stray(kind, odd, odd, 1, Signs("either"))
    assert moved[0, :2].tolist() == [np.inf, -np.inf]
    assert np.isnan(moved[0, 2])
    assert np.isfinite(moved[0, 3])


def graph(op: str, **attributes: object) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [10, 100]) for name in "xy"]
    nodes = [helper.make_node(op, ["x"], ["y"], **attributes)]
    return helper.make_model(
        helper.make_graph(nodes, "g", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )


def test_a_graph_is_evaluated_coarsely_only_where_asked_and_only_in_such_functions() -> None:
    for op, there in (("Sigmoid", True), ("Relu", False)):
        model = graph(op)
        assert found_in(model) is there
        usual = OnnxEvaluator(model, np.float32).run({"x": X})["y"]
        coarse = OnnxEvaluator(model, np.float32, coarse="either").run({"x": X})["y"]
        assert np.array_equal(usual, coarse) is not there
        assert float(np.abs(coarse - usual).max()) < 2 * ACCURACY


def test_a_softmax_moves_by_its_own_rows() -> None:
    model = graph("Softmax", axis=0)
    usual = OnnxEvaluator(model).run({"x": X})["y"]
    coarse = OnnxEvaluator(model, np.float32, coarse="either").run({"x": X})["y"]
    assert float((np.abs(coarse - usual) / usual.max(0)).max()) < 3 * ACCURACY


def test_a_recurrent_layer_is_moved_inside_at_every_step() -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((1, 16, 3)), "r": random.standard_normal((1, 16, 4)) / 2}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    layer = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)
    model = helper.make_model(
        helper.make_graph([layer], "g", ports[:1], ports[1:], held), opset_imports=[helper.make_opsetid("", 18)]
    )
    assert found_in(model)
    x = random.standard_normal((20, 2, 3)).astype(np.float32)
    usual, up = (OnnxEvaluator(model, np.float32, coarse=way).run({"x": x})["y"] for way in (None, "up"))
    moved = np.abs(up - usual).max((1, 2, 3))
    assert moved[0] > 0
    assert moved[-1] > 1.5 * moved[0], "it goes on from step to step"
    assert moved.max() < 40 * ACCURACY
