"""Equalising: powers of two move between weights, no bit of the outputs changes, and nothing is too large any more."""

from __future__ import annotations

import doctest
import math

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_export.export.graph.index import GraphIndex
from attn_export.export.precision import equalise as module
from attn_export.export.precision.equalise import (
    EqualiseReport,
    ScaledTensor,
    equalise,
    power,
    rescaled,
    times_power,
)
from attn_export.export.precision.float16 import to_float16
from attn_export.export.precision.float16_policy import LARGEST, MARGIN, observe
from attn_export.export.precision.scale_groups import scale_groups

LIMIT = LARGEST * MARGIN


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), name=output, **attributes)


def build(nodes: list[onnx.NodeProto], weights: dict[str, NDArray], shape=(2, 3, 8, 8), out="y") -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in out.split()],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def draw(*shape: int, scale: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def run(model: onnx.ModelProto, x: NDArray, *, optimised: bool = True) -> list[NDArray]:
    settings_ = onnxruntime.SessionOptions()
    settings_.intra_op_num_threads = 1
    if not optimised:
        settings_.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings_, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def in_float64(model: onnx.ModelProto, x: NDArray) -> list[NDArray]:
    """Evaluate in float64: every float32 becomes one."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for port in (*wide.graph.input, *wide.graph.output):
        port.type.tensor_type.elem_type = TensorProto.DOUBLE
    del wide.graph.value_info[:]
    return list(ReferenceEvaluator(wide).run(None, {"x": x.astype(np.float64)}))


def net(grow: float = 3e4, *, op: str = "Relu") -> onnx.ModelProto:
    """A residual network with a gate, whose activations are some 1e5 in the middle."""
    middle = {
        "Relu": node("Relu", "a", "r"),
        "LeakyRelu": node("LeakyRelu", "a", "r", alpha=0.1),
        "PRelu": node("PRelu", "a slope", "r"),
        "Clip": node("Clip", "a low high", "r"),
        "MaxPool": node("MaxPool", "a", "r", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        "AveragePool": node("AveragePool", "a", "r", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    }[op]
    nodes = [
        node("Conv", "x w1 b1", "a", pads=[1, 1, 1, 1]),
        middle,
        node("Conv", "r w2 b2", "c"),
        node("Add", "c r", "d"),
        node("GlobalAveragePool", "d", "p"),
        node("Conv", "p wg", "g0"),
        node("Sigmoid", "g0", "g"),
        node("Mul", "d g", "m"),
        node("Concat", "m k", "j", axis=1),
        node("Transpose", "j", "t", perm=[0, 2, 3, 1]),
        node("MatMul", "t v", "y"),
    ]
    weights = {
        "w1": draw(6, 3, 3, 3, scale=grow, seed=1),
        "b1": draw(6, scale=grow, seed=2),
        "w2": draw(6, 6, 1, 1, seed=3),
        "b2": draw(6, scale=grow, seed=4),
        "wg": draw(6, 6, 1, 1, scale=1 / grow, seed=5),
        "k": draw(2, 1, 8, 8, scale=grow, seed=6),
        "v": draw(7, 4, scale=1 / grow, seed=7),
        "slope": np.abs(draw(6, 1, 1, seed=8)),
        "low": np.float32(0),
        "high": np.float32(6 * grow),
    }
    used = {name for item in nodes for name in item.input}
    return build(nodes, {name: value for name, value in weights.items() if name in used})


@pytest.mark.parametrize("op", ["Relu", "LeakyRelu", "PRelu", "Clip", "MaxPool", "AveragePool"])
def test_no_bit_of_the_outputs_changes_and_nothing_is_too_large(op: str) -> None:
    model, x = net(op=op), draw(2, 3, 8, 8)
    before = model.SerializeToString(deterministic=True)
    made, report = equalise(model, [{"x": x}])
    assert model.SerializeToString(deterministic=True) == before, "the model given was changed"
    assert {"a", "r", "c", "d", "p", "m", "j", "t"} <= {item.tensor for item in report.scaled}
    assert report.left == ()
    assert max(item.largest for item in report.scaled) > LARGEST
    assert max(extent.largest for name, extent in observe(made, [{"x": x}]).items() if name != "x") <= LIMIT
    for optimised in (False, True):
        for old, new in zip(run(model, x, optimised=optimised), run(made, x, optimised=optimised), strict=True):
            assert old.tobytes() == new.tobytes()
    for old, new in zip(in_float64(model, x), in_float64(made, x), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_check_would_see_a_scale_that_nothing_undoes() -> None:
    model, x = net(), draw(2, 3, 8, 8)
    assert run(rescaled(model, {"a": 2}), x)[0].tobytes() != run(model, x)[0].tobytes()


def test_a_float16_model_keeps_no_node_in_float32_for_its_size() -> None:
    model, x = net(), draw(2, 3, 8, 8)
    assert any("more than" in kept.reason for kept in to_float16(model, [{"x": x}])[1].kept)
    made, _ = equalise(model, [{"x": x}])
    low, report = to_float16(made, [{"x": x}])
    assert [kept.reason.partition(" up to")[0] for kept in report.kept] == ["it adds"], "what is summed is not divided"
    with np.errstate(all="ignore"):  # in the sigmoid of the reference
        truth, came = run(model, x)[0], ReferenceEvaluator(low).run(None, {"x": x})[0]
    assert 20 * np.log10(np.linalg.norm(truth) / np.linalg.norm(truth - came)) > 50


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(-6, 14), min_size=3, max_size=6), seed=st.integers(0, 99))
def test_any_chain_is_the_same_bits(sizes: list[int], seed: int) -> None:
    nodes, weights, last = [], {}, "x"
    for i, size in enumerate(sizes):
        weights[f"w{i}"] = draw(4, 4, scale=2.0**size, seed=seed + i)
        nodes += [node("MatMul", f"{last} w{i}", f"m{i}"), node("Relu", f"m{i}", f"r{i}")]
        last = f"r{i}"
    weights["end"] = draw(4, 4, seed=seed)
    model = build([*nodes, node("MatMul", f"{last} end", "y")], weights, (5, 4))
    x = draw(5, 4, seed=seed + 50)
    made, report = equalise(model, [{"x": x}])
    assert run(made, x)[0].tobytes() == run(model, x)[0].tobytes()
    seen = observe(made, [{"x": x}])
    assert all(seen[item.tensor].largest <= LIMIT for item in report.scaled)
    assert {item.tensor for item in report.left} <= {"y"}


def test_a_weight_that_two_read_is_copied_for_the_one_that_changes() -> None:
    weights = {"w": draw(8, 8, scale=1e4), "v": draw(8, 8, scale=1e-5)}
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "x w", "s"), node("Tanh", "s", "q")]
    nodes += [node("MatMul", "a v", "b"), node("Add", "b q", "y")]
    model, x = build(nodes, weights, (4, 8)), draw(4, 8, scale=3)
    made, _ = equalise(model, [{"x": x}])
    first, second, *_ = made.graph.node
    assert (first.input[1], second.input[1]) == ("w_times_2_to_-3", "w")
    assert "v" not in {tensor.name for tensor in made.graph.initializer}, "what nobody reads stays in the file"
    assert run(made, x)[0].tobytes() == run(model, x)[0].tobytes()


@pytest.mark.parametrize(
    ("op", "why"),
    [
        ("Sigmoid", "Sigmoid 'y' is not homogeneous"),
        ("Identity", "input or output"),
        ("Exp", "Exp 'y' is not homogeneous"),
    ],
)
def test_what_cannot_be_divided_is_said(op: str, why: str) -> None:
    model = build([node("MatMul", "x w", "a"), node(op, "a", "y")], {"w": draw(8, 8, scale=1e5)}, (4, 8))
    made, report = equalise(model, [{"x": draw(4, 8)}])
    assert made == model
    (first, *_) = report.left
    assert first.tensor == "a"
    assert why in first.reason
    assert report.offer() == ""


def test_two_tensors_multiplied_are_left() -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("MatMul", "x u", "b"),
        node("Mul", "a b", "c"),
        node("MatMul", "c v", "y"),
    ]
    model = build(nodes, {"w": draw(8, 8, scale=1e3), "u": draw(8, 8, scale=1e3), "v": draw(8, 8)}, (4, 8))
    groups = scale_groups(GraphIndex(model), {"x", "a", "b", "c", "y"}.__contains__)
    assert all("multiplies two tensors" in groups.why_fixed(name) for name in "abc")
    gated = build([*nodes[:1], node("Sigmoid", "x", "b"), *nodes[2:]], {"w": draw(8, 8), "v": draw(8, 8)}, (4, 8))
    groups = scale_groups(GraphIndex(gated), {"x", "a", "b", "c", "y"}.__contains__)
    assert groups.root("a") == groups.root("c") != groups.root("b")
    assert not groups.why_fixed("a")


def test_a_constant_that_would_lose_bits_keeps_its_group_as_it_is() -> None:
    weights = {"w": draw(8, 8, scale=1e5), "v": draw(8, 8)}
    weights["w"][0, 0] = 1.5e-38  # the least normal number is 1.18e-38
    model = build([node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("MatMul", "r v", "y")], weights, (4, 8))
    made, report = equalise(model, [{"x": draw(4, 8)}])
    assert made == model
    assert report.scaled == ()
    assert "'w' would leave the normal numbers" in str(report.left[0])


@given(largest=st.floats(1e-30, 1e30), limit=st.floats(1, 1e5))
def test_the_power_is_the_least_that_suffices(largest: float, limit: float) -> None:
    n = power(largest, limit)
    assert n >= 0
    assert math.ldexp(largest, -n) <= limit
    assert n == 0 or math.ldexp(largest, 1 - n) > limit


def test_the_offer_counts_what_passes() -> None:
    over, near = ScaledTensor("a", 2, 67394.0), ScaledTensor("b", 1, 40000.0)
    assert EqualiseReport((over, over)).offer().startswith("2 tensors pass 65,504, the largest float16; --equalize")
    assert EqualiseReport((over, near)).offer().startswith("1 tensor passes 65,504 and 1 tensor passes half of that")
    assert EqualiseReport((near,)).offer().startswith("1 tensor passes half of 65,504")
    assert EqualiseReport().offer() == ""


def test_an_exact_multiple_is_told_from_one_that_loses_bits() -> None:
    assert times_power(np.float32([2.0**-125]), -1) is not None
    assert times_power(np.float32([2.0**-126]), -1) is None
    assert times_power(np.float32([3e38]), 1) is None
    assert doctest.testmod(module).failed == 0
