"""The float16 rewrite: types in the graph, float32 at the borders, and what would overflow or vanish left alone."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_export.errors import ExportError
from attn_export.export.precision.float16 import LARGEST, Float16Report, to_float16

F32, F16, I64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def build(nodes, weights=None, shape=(2, 8), out=F32, opset=20) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", F32, shape)],
        [helper.make_tensor_value_info("y", out, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)  # the checker wants outputs with a shape


def draw(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)


def run(model: onnx.ModelProto, x: NDArray) -> NDArray:
    """Evaluate by the reference: ONNX Runtime on a CPU drops pairs of casts, and with them the rounding."""
    loaded = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert loaded.run(None, {"x": x})[0].shape is not None
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def snr(truth: NDArray, came: NDArray) -> float:
    """Signal-to-noise ratio in dB; float16 must have made some difference, or nothing was rounded."""
    assert not np.array_equal(truth, came)
    return float(20 * np.log10(np.linalg.norm(truth) / np.linalg.norm(truth - came)))


def halve(model: onnx.ModelProto, x: NDArray) -> tuple[onnx.ModelProto, Float16Report]:
    before = model.SerializeToString(deterministic=True)
    result = to_float16(model, [{"x": x}])
    assert model.SerializeToString(deterministic=True) == before, "the model given was changed"
    for port in (*result[0].graph.input, *result[0].graph.output):
        assert port.type.tensor_type.elem_type != F16
    return result


def reasons(report: Float16Report) -> dict[str, str]:
    return {kept.node: kept.reason for kept in report.kept}


def test_a_plain_net_becomes_half_its_size_and_keeps_its_ports() -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"),
            helper.make_node("Relu", ["m"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "v"], ["y"], name="mm2"),
        ],
        {"w": draw(8, 64), "v": draw(64, 8)},
    )
    x = draw(2, 8)
    half, report = halve(model, x)
    assert (report.halved, report.kept, report.casts) == (3, (), 2)
    assert {tensor.data_type for tensor in half.graph.initializer} == {F16}
    assert half.ByteSize() < 0.6 * model.ByteSize()
    came = run(half, x)
    assert came.dtype == np.float32
    assert snr(run(model, x), came) > 50


def test_a_node_that_overflows_stays_and_its_neighbours_do_not() -> None:
    model = build(
        [
            helper.make_node("Mul", ["x", "big"], ["b"], name="grow"),
            helper.make_node("Mul", ["b", "b"], ["q"], name="square"),
            helper.make_node("Mul", ["q", "small"], ["s"], name="shrink"),
            helper.make_node("Tanh", ["s"], ["y"], name="tanh"),
        ],
        {"big": np.float32(1000), "small": np.float32(1e-3)},
    )
    x = draw(2, 8)
    half, report = halve(model, x)
    assert set(reasons(report)) == {"square", "shrink"}
    assert "it gives" in reasons(report)["square"]
    assert "it takes" in reasons(report)["shrink"]
    assert snr(run(model, x), run(half, x)) > 50


def test_a_sum_that_would_overflow_stays_although_its_mean_would_not() -> None:
    model = build([helper.make_node("ReduceMean", ["x"], ["y"], name="mean", keepdims=0)], shape=(1, 100_000))
    _, report = halve(model, np.ones((1, 100_000), np.float32))
    assert reasons(report) == {"mean": "it adds up to 1e+05, more than 3.28e+04"}


@pytest.mark.parametrize(("eps", "stays"), [(1e-12, True), (1e-3, False)])
def test_an_epsilon_that_would_vanish_stays(eps: float, stays: bool) -> None:
    model = build(
        [
            helper.make_node("Add", ["x", "eps"], ["a"], name="add"),
            helper.make_node("Sqrt", ["a"], ["y"], name="root"),
        ],
        {"eps": np.float32(eps)},
    )
    half, report = halve(model, np.zeros((2, 8), np.float32))
    assert ("add" in reasons(report)) is stays
    assert run(half, np.zeros((2, 8), np.float32)).min() > 0


def test_a_guard_is_kept_up_to_the_division_it_guards() -> None:
    model = build(
        [
            helper.make_node("ReduceL2", ["x"], ["n"], name="norm", axes=[-1], keepdims=1),
            helper.make_node("Clip", ["n", "eps"], ["c"], name="clip"),
            helper.make_node("Expand", ["c", "shape"], ["e"], name="expand"),
            helper.make_node("Div", ["x", "e"], ["d"], name="div"),
            helper.make_node("Relu", ["d"], ["y"], name="relu"),
        ],
        {"eps": np.float32(1e-12), "shape": np.array([2, 8])},
        opset=17,
    )
    x = draw(2, 8)
    x[1] = 0
    half, report = halve(model, x)
    assert set(reasons(report)) == {"clip", "expand", "div"}
    assert np.isfinite(run(half, x)).all()


@pytest.mark.parametrize("mask", [float("-inf"), float(np.finfo(np.float32).min)])
def test_a_mask_is_clamped_and_gives_no_nan(mask: float) -> None:
    values = np.zeros((2, 8), np.float32)
    values[:, 5:] = mask
    model = build(
        [
            helper.make_node("Add", ["x", "mask"], ["m"], name="mask_it"),
            helper.make_node("Softmax", ["m"], ["y"], name="softmax"),
        ],
        {"mask": values},
    )
    x = draw(2, 8)
    half, report = halve(model, x)
    assert report.clamped == ("mask",)
    assert report.kept == ()
    (tensor,) = (numpy_helper.to_array(t) for t in half.graph.initializer)
    assert tensor.min() == -LARGEST
    came = run(half, x)
    assert np.isfinite(came).all()
    assert not came[:, 5:].any()
    assert snr(run(model, x), came) > 50


def test_layer_normalisation_stays_one_node_and_computes_in_float32() -> None:
    model = build(
        [helper.make_node("LayerNormalization", ["x", "w", "b"], ["y"], name="norm", epsilon=1e-6)],
        {"w": draw(8), "b": draw(8)},
    )
    x = draw(2, 8, scale=300)  # squares overflow float16; the operator's own stash type is float32
    half, report = halve(model, x)
    assert report.kept == ()
    (norm,) = (node for node in half.graph.node if node.op_type == "LayerNormalization")
    assert not [a for a in norm.attribute if a.name == "stash_type" and a.i != F32]
    # The reference evaluator ignores the stash type, so this one is run for real.
    session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    assert snr(run(model, x), session.run(None, {"x": x})[0]) > 50


def test_integers_that_float16_cannot_count_stay() -> None:
    model = build(
        [
            helper.make_node("Mul", ["x", "n"], ["i"], name="index"),
            helper.make_node("Cast", ["i"], ["y"], name="count", to=I64),
        ],
        {"n": np.float32(3)},
        shape=(1, 4),
        out=I64,
    )
    x = np.array([[1, 2, 3, 1001]], np.float32)
    half, report = halve(model, x)
    assert set(reasons(report)) == {"index", "count"}
    np.testing.assert_array_equal(run(half, x), [[3, 6, 9, 3003]])


def test_positions_that_must_be_float32_are_left_so() -> None:
    model = build(
        [helper.make_node("Resize", ["x", "", "scales"], ["y"], name="resize", mode="nearest")],
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        shape=(1, 2, 4, 4),
    )
    x = draw(1, 2, 4, 4)
    half, report = halve(model, x)
    assert report.kept == ()
    assert [t.data_type for t in half.graph.initializer] == [F32]
    assert snr(run(model, x), run(half, x)) > 50


def test_casts_and_constants_inside_the_graph_follow() -> None:
    constant = helper.make_node("Constant", [], ["c"], name="c", value=numpy_helper.from_array(np.float32(2), "v"))
    model = build(
        [
            constant,
            helper.make_node("Greater", ["x", "c"], ["g"], name="greater"),
            helper.make_node("Cast", ["g"], ["f"], name="as_float", to=F32),
            helper.make_node("Mul", ["f", "x"], ["y"], name="gate"),
        ]
    )
    x = draw(2, 8, scale=4)
    half, report = halve(model, x)
    assert report.halved == 4
    assert report.casts == 2
    assert snr(run(model, x), run(half, x)) > 50


def test_a_tensor_with_two_kinds_of_readers_is_cast_once() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"], name="relu")]
    nodes += [helper.make_node("Mul", ["r", "huge"], [f"h{i}"], name=f"huge{i}") for i in range(3)]
    nodes += [helper.make_node("Sum", ["h0", "h1", "h2"], ["s"], name="sum"), helper.make_node("Log", ["s"], ["y"])]
    model = build(nodes, {"huge": np.float32(1e6)})
    half, report = halve(model, np.abs(draw(2, 8)) + 0.1)
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    assert len(casts) == report.casts
    assert sum(node.input[0] == "r" for node in casts) == 1


def test_an_output_that_is_read_again_inside() -> None:
    model = build(
        [helper.make_node("Relu", ["x"], ["y"], name="relu"), helper.make_node("Exp", ["y"], ["z"], name="exp")]
    )
    model.graph.output.append(helper.make_tensor_value_info("z", F32, [2, 8]))
    half, _ = halve(model, draw(2, 8))
    assert [o.name for o in half.graph.output] == ["y", "z"]
    assert len({name for node in half.graph.node for name in node.output}) == sum(
        len(n.output) for n in half.graph.node
    )


def test_a_graph_inside_a_node_keeps_what_it_uses() -> None:
    branch = [
        helper.make_graph([helper.make_node(op, ["r"], ["o"])], op, [], [helper.make_tensor_value_info("o", F32, None)])
        for op in ("Relu", "Neg")
    ]
    model = build(
        [
            helper.make_node("Tanh", ["x"], ["r"], name="tanh"),
            helper.make_node("If", ["flag"], ["i"], name="if", then_branch=branch[0], else_branch=branch[1]),
            helper.make_node("Exp", ["i"], ["y"], name="exp"),
        ],
        {"flag": np.array(True)},
    )
    x = draw(2, 8)
    half, report = halve(model, x)
    assert set(reasons(report)) == {"tanh", "if"}
    assert snr(run(model, x), run(half, x)) > 50


def test_the_bounds_of_a_range_are_computed_in_float32() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="shape"),
        helper.make_node("Gather", ["s", "one"], ["n"], name="gather"),
        helper.make_node("Cast", ["n"], ["f"], name="as_float", to=F32),
        helper.make_node("Range", ["zero", "f", "step"], ["r"], name="range"),
        helper.make_node("Mul", ["x", "r"], ["y"], name="mul"),
    ]
    model = build(nodes, {"one": np.array(1), "zero": np.float32(0), "step": np.float32(1)})
    half, report = halve(model, draw(2, 8))
    assert set(reasons(report)) == {"as_float", "range"}
    assert snr(run(model, draw(2, 8)), run(half, draw(2, 8))) > 50


def test_refusals() -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(ExportError, match="at least one input"):
        to_float16(model, [])
    with pytest.raises(ExportError, match="does not run in float32"):
        to_float16(model, [{"wrong": draw(2, 8)}])
    quantised = build(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        {"s": np.float32(1), "z": np.int8(0)},
        out=TensorProto.INT8,
    )
    with pytest.raises(
        ExportError, match="expected a float32 model to rewrite in float16, got one with QuantizeLinear"
    ):
        to_float16(quantised, [{"x": draw(2, 8)}])


def test_no_warning_about_numbers_out_of_range() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        halve(build([helper.make_node("Mul", ["x", "c"], ["y"])], {"c": np.float32(1e-30)}), draw(2, 8))
