"""The audit of codes passes a right graph, and names each thing that can be wrong with it; so do the faults."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.export.audit import quantised as audit
from attn_export.export.audit.quantised import Range, Usual
from attn_export.export.graph.index import set_tensor
from attn_export.export.mutants import quantised as faults
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array

RNG = np.random.default_rng(0)
WEIGHT = (RNG.standard_normal((4, 3, 3, 3)) * np.array([1, 0.2, 0.1, 3])[:, None, None, None]).astype(np.float32)
IMAGE = RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)


def model() -> onnx.ModelProto:
    """x to int8, a convolution with a scale for each channel, ReLU, and what it gives to uint8."""
    scales = (np.abs(WEIGHT).max((1, 2, 3)) / 127).astype(np.float32)
    codes = np.rint(WEIGHT / scales[:, None, None, None]).astype(np.int8)
    constants = {
        "w_codes": codes,
        "w_scale": scales,
        "w_zero": np.zeros(4, np.int8),
        "x_scale": np.float32(4 / 127),
        "x_zero": np.int8(0),
        "y_scale": np.float32(40 / 255),
        "y_zero": np.uint8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", "x_scale", "x_zero"], ["x_rounded"]),
        helper.make_node("DequantizeLinear", ["w_codes", "w_scale", "w_zero"], ["w"], axis=0),
        helper.make_node("Conv", ["x_rounded", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "y_scale", "y_zero"], ["y_codes"]),
        helper.make_node("DequantizeLinear", ["y_codes", "y_scale", "y_zero"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (1, 3, 8, 8)), ("y", (1, 4, 6, 6)))
    )
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def with_tensor(name: str, value: Array) -> onnx.ModelProto:
    changed = model()
    set_tensor(changed.graph, name, value)
    return changed


def own_zero(changed: onnx.ModelProto) -> onnx.ModelProto:
    set_tensor(changed.graph, "other", np.asarray(np.uint8(1)))
    changed.graph.node[6].input[2] = "other"
    return changed


def with_axis(axis: int) -> onnx.ModelProto:
    changed = model()
    changed.graph.node[2].attribute[0].i = axis
    return changed


def test_a_right_graph_passes() -> None:
    assert audit.audit(model()) == ()
    step = float(np.float32(4 / 127))
    assert audit.rounded(model())["x"] == Range(-128 * step, 127 * step, step)


#: Each wrong graph, and what is said of it.
WRONG: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a scale of zero": (lambda: with_tensor("x_scale", np.asarray(np.float32(0))), "finite scales above zero"),
    "a negative scale": (lambda: with_tensor("y_scale", np.asarray(np.float32(-1))), "finite scales above zero"),
    "an endless scale": (lambda: with_tensor("y_scale", np.asarray(np.float32(np.inf))), "finite scales above zero"),
    "a zero point of int32": (lambda: with_tensor("y_zero", np.asarray(np.int32(0))), "int8 or uint8, got int32"),
    "a zero point of another shape": (lambda: with_tensor("w_zero", np.asarray(np.int8(0))), "of the scale's shape"),
    "int8 that is not symmetric": (lambda: with_tensor("x_zero", np.asarray(np.int8(1))), "to be symmetric"),
    "another zero point behind than before": (lambda: own_zero(model()), "its zero point is not that of"),
    "scales along another axis": (lambda: with_axis(1), "do not lie along an axis"),
    "a weight's scale too large": (
        lambda: with_tensor("w_codes", np.rint(WEIGHT).astype(np.int8)),
        "its scale is too large",
    ),
    "a weight cut off": (
        lambda: with_tensor("w_codes", (127 * np.sign(WEIGHT)).astype(np.int8)),
        "100% of its codes are the largest",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str) -> None:
    make, why = WRONG[name]
    assert any(why in found for found in audit.audit(make())), audit.audit(make())


def test_the_axis_must_count_output_channels() -> None:
    square = model()
    codes = np.asarray(numpy_helper.to_array(square.graph.initializer[0]))[:3]
    set_tensor(square.graph, "w_codes", codes)
    set_tensor(square.graph, "w_scale", np.full(3, 0.02, np.float32))
    set_tensor(square.graph, "w_zero", np.zeros(3, np.int8))
    assert not any("axis" in found for found in audit.audit(square))
    square.graph.node[2].attribute[0].i = 1
    assert any("along axis 0, got axis 1" in found for found in audit.audit(square))


def test_one_scale_for_a_weight_is_wrong_unless_it_was_asked_for() -> None:
    single = with_tensor("w_scale", np.asarray(np.float32(0.08)))
    set_tensor(single.graph, "w_zero", np.asarray(np.int8(0)))
    del single.graph.node[2].attribute[:]
    set_tensor(single.graph, "w_codes", np.rint(WEIGHT / 0.08).astype(np.int8))
    assert any("got one for all" in found for found in audit.audit(single))
    assert audit.audit(single, per_channel=False) == ()


def test_a_range_that_cuts_off_what_is_usual_is_named() -> None:
    usual = {"x": Usual.seen(IMAGE)}
    assert audit.audit(model(), usual) == ()
    narrow = with_tensor("x_scale", np.asarray(np.float32(0.5 / 127)))
    assert any("x is cut off" in found for found in audit.audit(narrow, usual))


def test_usual_values_of_several_cases_are_the_median_of_each() -> None:
    rows = [Usual.seen(np.linspace(0, top, 1001)) for top in (1, 2, 100)]
    assert Usual.of(rows).most == 100
    assert Usual.of(rows).high == pytest.approx(1.99)


def test_every_kind_of_fault_is_there_and_changes_what_the_graph_means() -> None:
    seen = {"x": (-1.0, 1.5), "r": (0.0, 3.0)}
    rows = faults.mutations(model(), [seen])
    assert {row.kind for row in rows} == {
        "weight scale halved",
        "activation scale halved",
        "activation saturated",
        "zero point off by one",
        "weight's zero point off by one",
        "one scale for all channels",
        "ranges from one image",
    }
    right = OnnxEvaluator(model()).run({"x": IMAGE})["y"]
    for row in rows:
        mutant = row.of(model())
        onnx.checker.check_model(mutant, full_check=True)
        assert not np.array_equal(OnnxEvaluator(mutant).run({"x": IMAGE})["y"], right), row.name
    first = [row.kind for row in rows[:7]]
    assert len(set(first)) == 7


@pytest.mark.parametrize(
    "kind", ["zero point off by one", "weight's zero point off by one", "one scale for all channels"]
)
def test_faults_that_cost_little_are_seen_by_the_audit(kind: str) -> None:
    rows = [row for row in faults.mutations(model()) if row.kind == kind]
    assert rows
    assert all(audit.audit(row.of(model())) for row in rows)
