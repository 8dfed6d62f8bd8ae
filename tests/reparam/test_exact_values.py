"""Right values of small graphs: computed by hand, by PyTorch in float64, or by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from torch import nn

from attn_export.errors import ExportError
from attn_export.reparam.adapters.onnx.nodes import inputs_of
from attn_export.reparam.evaluate.claims import RefusedOperatorError, random_operators
from attn_export.reparam.evaluate.kernels.windows import average_global
from attn_export.reparam.evaluate.onnx import OnnxEvaluator, kept_from_writing

Array = np.ndarray[Any, Any]
INF = np.float32(np.inf)
RANDOM = np.random.default_rng(0)


def drawn(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def port(name: str, value: Any = None, kind: int | None = None) -> onnx.ValueInfoProto:
    if value is None:
        return helper.make_tensor_value_info(name, T.FLOAT if kind is None else kind, None)
    array = np.asarray(value)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    ends = [onnx.ValueInfoProto(name=name) for name in outputs]
    return helper.make_graph(list(nodes), "g", [port(n, v) for n, v in inputs.items()], ends, tensors)


def model_of(graph: onnx.GraphProto, opset: int = 17, **more: Any) -> onnx.ModelProto:
    ids = [helper.make_opsetid("", opset), *more.pop("opsets", [])]
    return helper.make_model(graph, opset_imports=ids, ir_version=8 if opset < 19 else 10, **more)


def one(operator: str, inputs: Sequence[Any], opset: int = 17, outputs: int = 1, **attributes: Any) -> list[Any]:
    """The outputs of a single node; None leaves an input out."""
    names = ["" if x is None else f"i{n}" for n, x in enumerate(inputs)]
    made = [f"o{n}" for n in range(outputs)]
    feeds = {name: np.asarray(x) for name, x in zip(names, inputs, strict=True) if name}
    node = helper.make_node(operator, names, made, "node", **attributes)
    return list(OnnxEvaluator(model_of(graph_of([node], feeds, made), opset)).run(feeds).values())


def runtime(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


# Softmaxes of old


def test_a_softmax_before_opset_13_is_over_all_from_its_axis_on() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    for opset, attributes, count in ((11, {"axis": 1}, 12), (11, {}, 12), (11, {"axis": 2}, 4), (11, {"axis": 0}, 24)):
        (y,) = one("Softmax", [x], opset, **attributes)
        np.testing.assert_allclose(y, 1 / count)
    assert one("Softmax", [x], 13, axis=1)[0][0, 0, 0] == pytest.approx(1 / 3)
    assert one("Softmax", [x], 13)[0][0, 0, 0] == pytest.approx(1 / 4)
    assert one("LogSoftmax", [x], 11)[0][0, 0, 0] == pytest.approx(-np.log(12))
    assert one("LogSoftmax", [x], 13, axis=1)[0][0, 0, 0] == pytest.approx(-np.log(3))
    assert one("Hardmax", [x], 11)[0].sum() == 2
    assert one("Hardmax", [x], 13)[0].sum() == 6


def test_masks_of_minus_infinity() -> None:
    x = np.array([[0, -INF, 0], [-INF, -INF, -INF], [1, 2, -INF]], np.float32)
    (y,) = one("Softmax", [x])
    np.testing.assert_allclose(y[0], [0.5, 0, 0.5])
    assert np.isnan(y[1]).all(), "as in PyTorch and ONNX Runtime"
    np.testing.assert_allclose(y, torch.softmax(torch.from_numpy(x).double(), -1).numpy(), rtol=1e-12)
    (logs,) = one("LogSoftmax", [x])
    np.testing.assert_allclose(logs, torch.log_softmax(torch.from_numpy(x).double(), -1).numpy(), rtol=1e-12)
    assert logs[0, 1] == -np.inf


def test_a_division_by_zero_is_no_error() -> None:
    (y,) = one("Div", [np.float32([1, -1, 0]), np.float32([0, 0, 0])])
    assert y[:2].tolist() == [np.inf, -np.inf]
    assert np.isnan(y[2])


# Resize


def test_the_nearest_pixel_is_chosen_in_float32() -> None:
    """3 / 0.6 is 5 in float32; the float32 number 0.6 is a little more, which would give the fourth pixel."""
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 8)
    named = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    for dtype in (np.float64, np.float32):
        graph = graph_of([helper.make_node("Resize", ["x", "", "s"], ["y"], **named)], {"x": x}, ["y"],
                         {"s": np.float32([1, 1, 0.6])})  # fmt: skip
        came = OnnxEvaluator(model_of(graph, 18), dtype).run({"x": x})["y"]
        assert came.tolist() == [[[0, 1, 3, 5]]]
    np.testing.assert_array_equal(runtime(model_of(graph, 18), {"x": x})[0], came)


def test_the_size_is_rounded_down_in_float32() -> None:
    """10 · 0.7 is 7 in float32, and less than 7 for the float32 number 0.7."""
    (y,) = one("Resize", [np.zeros((1, 1, 10), np.float32), None, np.float32([1, 1, 0.7])], 13)
    assert y.shape == (1, 1, 7)


def test_weights_of_pixels_are_exact() -> None:
    x = torch.from_numpy(drawn(1, 2, 5, 7)).double()
    for mode, theirs in (("linear", "bilinear"), ("cubic", "bicubic")):
        named = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
        (y,) = one("Resize", [x.numpy(), None, None, np.array([1, 2, 12, 10])], 13, **named)
        wanted = nn.functional.interpolate(x, (12, 10), mode=theirs).numpy()
        # The scale is a float32 number by the standard, and 10 / 7 is none.
        np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-6)
        (y,) = one("Resize", [x.numpy(), None, None, np.array([1, 2, 10, 14])], 13, **named)
        np.testing.assert_allclose(y, nn.functional.interpolate(x, (10, 14), mode=theirs).numpy(), rtol=0, atol=1e-14)


def test_places_between_pixels_are_exact_for_the_float32_scale() -> None:
    x, scale = drawn(1, 1, 50).astype(np.float64), np.float32(1.7)
    named = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    (y,) = one("Resize", [x, None, np.array([1, 1, scale])], 13, **named)
    places = np.clip((np.arange(85) + 0.5) / float(scale) - 0.5, 0, 49)
    np.testing.assert_allclose(y[0, 0], np.interp(places, np.arange(50), x[0, 0]), rtol=0, atol=1e-13)


# Windows


def test_both_outputs_of_pooling_lead_back() -> None:
    x = drawn(1, 2, 4, 6)
    y, places = one("MaxPool", [x], outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    assert places.dtype == np.int64
    np.testing.assert_array_equal(x.reshape(-1)[places], y)
    (back,) = one("MaxUnpool", [y, places], kernel_shape=[2, 2], strides=[2, 2])
    assert back.shape == x.shape
    np.testing.assert_array_equal(back[back != 0], x[back != 0])
    assert (back != 0).sum() == y.size
    assert one("MaxPool", [np.uint8([[[3, 255, 7]]])], kernel_shape=[3], pads=[1, 1])[0].tolist() == [[[255, 255, 255]]]


def test_places_of_columns_and_behind_padding() -> None:
    x = np.float32([[[[1, 2], [9, 3], [4, 5]]]])
    assert one("MaxPool", [x], outputs=2, kernel_shape=[3, 2])[1].tolist() == [[[[2]]]], "row 1, column 0, by rows"
    named = {"kernel_shape": [3, 2], "storage_order": 1}
    assert one("MaxPool", [x], outputs=2, **named)[1].tolist() == [[[[1]]]], "by columns"
    padded = one("MaxPool", [np.float32([[[5, 7, 1]]])], outputs=2, kernel_shape=[2], pads=[1, 0])[1]
    assert padded.tolist() == [[[0, 1, 1]]]


def test_a_window_far_beyond_what_it_slides_over_costs_nothing() -> None:
    """EfficientNet of transformers pools its last map by a window of as many positions as channels, rounded up."""
    x = np.float32([[[[1, 2], [3, 6]]]])
    named: dict[str, Any] = {"kernel_shape": [99_999] * 2, "strides": [99_999] * 2, "ceil_mode": 1}
    assert one("AveragePool", [x], **named)[0].tolist() == [[[[3]]]]


def test_global_pools_of_any_rank() -> None:
    x = drawn(2, 3, 5)
    assert np.array_equal(one("GlobalMaxPool", [x])[0], x.max(2, keepdims=True))
    np.testing.assert_allclose(one("GlobalAveragePool", [x])[0], x.astype(float).mean(2, keepdims=True), rtol=1e-14)


def test_a_global_pool_in_float32_adds_one_number_after_the_other() -> None:
    """So does ONNX Runtime on some processors; what it strays by must not be more than what is granted."""
    x = np.abs(np.random.default_rng(0).standard_normal((1, 4, 64, 64))).astype(np.float32)
    truth = x.astype(float).mean((2, 3), keepdims=True)
    came = average_global({}, [x])
    row = np.float32(0)
    for value in x[0, 0].ravel():
        row += value
    assert came.dtype == np.float32
    assert came[0, 0, 0, 0] == row / np.float32(64 * 64)
    assert np.abs(came - truth).max() > 4 * np.abs(x.mean((2, 3), keepdims=True) - truth).max()


@pytest.mark.parametrize("named", [{"output_shape": [16, 15]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}])
def test_a_transposed_convolution_of_a_given_size(named: dict[str, Any]) -> None:
    x, w, b = drawn(1, 4, 8, 8), drawn(4, 3, 3, 3), drawn(3)
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2], **named)
    model = model_of(graph_of([node], {"x": x}, ["y"], {"w": w, "b": b}))
    came = OnnxEvaluator(model).run({"x": x})["y"]
    assert came.shape == (1, 3, *named.get("output_shape", [16, 16]))
    np.testing.assert_allclose(came, runtime(model, {"x": x})[0], atol=1e-5)


# Norms


def test_all_three_outputs_of_a_layer_norm() -> None:
    x = drawn(2, 5)
    y, mean, inverse = one("LayerNormalization", [x, np.ones(5, np.float32)], outputs=3, epsilon=0.5)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(1, keepdims=True), rtol=1e-14)
    np.testing.assert_allclose(inverse, 1 / np.sqrt(wide.var(1, keepdims=True) + 0.5), rtol=1e-14)
    np.testing.assert_allclose(y, (wide - mean) * inverse, rtol=1e-13)


def test_a_group_norm_of_opset_18_scales_groups() -> None:
    x = drawn(1, 4, 3)
    by_group = one("GroupNormalization", [x, np.float32([2, 3]), np.float32([0, 1])], 18, num_groups=2)[0]
    each = [np.repeat(np.float32(v), 2) for v in ([2, 3], [0, 1])]
    by_channel = one("GroupNormalization", [x, *each], 21, num_groups=2)[0]
    np.testing.assert_array_equal(by_group, by_channel)
    wanted = nn.functional.group_norm(torch.from_numpy(x).double(), 2, *(torch.from_numpy(v).double() for v in each))
    np.testing.assert_allclose(by_channel, wanted.numpy(), rtol=1e-7)


def test_a_batch_norm_in_training_uses_the_batch() -> None:
    x, ones = drawn(3, 2, 4), np.ones(2, np.float32)
    y, mean, variance = one("BatchNormalization", [x, ones, 0 * ones, 0 * ones, ones], 15, 3, training_mode=1)
    np.testing.assert_allclose(y.mean((0, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(mean, 0.1 * x.astype(float).mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * x.astype(float).var((0, 2)), rtol=1e-6)


def test_a_named_precision_of_a_softmax_is_ours() -> None:
    q, k, v = (drawn(1, 2, 3, 4) for _ in range(3))
    (y,) = one("Attention", [q, k, v], 23, softmax_precision=T.FLOAT)
    wide = (torch.from_numpy(x).double() for x in (q, k, v))
    wanted = nn.functional.scaled_dot_product_attention(*wide).numpy()
    np.testing.assert_allclose(y, wanted, rtol=1e-12)


# Recurrent layers, against PyTorch in float64


@pytest.mark.parametrize(("kind", "order"), [("LSTM", [0, 3, 1, 2]), ("GRU", [1, 0, 2]), ("RNN", [0])])
def test_both_directions_of_a_recurrent_layer(kind: str, order: list[int]) -> None:
    torch.manual_seed(0)
    layer = getattr(nn, kind)(3, 4, bidirectional=True).double()
    x = torch.from_numpy(drawn(5, 2, 3)).double()
    with torch.no_grad():
        wanted = layer(x)[0].numpy()

    def stacked(name: str) -> Array:
        parts = [getattr(layer, f"{name}_l0{end}").detach().numpy() for end in ("", "_reverse")]
        return np.stack([np.concatenate([np.split(p, len(order))[n] for n in order]) for p in parts])

    bias = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], 1)
    named = {"direction": "bidirectional", "hidden_size": 4, **({"linear_before_reset": 1} if kind == "GRU" else {})}
    y, last, *_ = one(kind, [x.numpy(), stacked("weight_ih"), stacked("weight_hh"), bias], outputs=2, **named)
    np.testing.assert_allclose(y.transpose(0, 2, 1, 3).reshape(5, 2, 8), wanted, rtol=1e-12)
    np.testing.assert_allclose(last[0], wanted[-1, :, :4], rtol=1e-12)
    np.testing.assert_allclose(last[1], wanted[0, :, 4:], rtol=1e-12)


def test_rows_end_where_their_length_says() -> None:
    x, w, r = drawn(4, 2, 3), drawn(2, 4, 3), drawn(2, 4, 4)
    lengths = np.array([2, 4], np.int32)
    y, last = one("RNN", [x, w, r, None, lengths], outputs=2, hidden_size=4, direction="bidirectional")
    assert not y[2:, :, 0].any()
    short, end = one("RNN", [x[:2, :1], w, r], outputs=2, hidden_size=4, direction="bidirectional")
    np.testing.assert_allclose(y[:2, :, :1], short, rtol=1e-14)
    np.testing.assert_allclose(last[:, :1], end, rtol=1e-14)


# Graphs inside nodes


def scalar(name: str, kind: int = T.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [])


def counting() -> onnx.GraphProto:
    """A body that adds the captured ``step`` and hands out what it has so far."""
    nodes = [
        helper.make_node("Identity", ["on"], ["still"]),
        helper.make_node("Add", ["sum", "step"], ["more"]),
        helper.make_node("Identity", ["more"], ["seen"]),
    ]
    inside = [scalar("i", T.INT64), scalar("on", T.BOOL), scalar("sum")]
    return helper.make_graph(nodes, "body", inside, [scalar("still", T.BOOL), scalar("more"), scalar("seen")])


@pytest.mark.parametrize("rounds", [3, 1, 0])
def test_what_a_loop_over_scalars_hands_out_is_a_vector(rounds: int) -> None:
    node = helper.make_node("Loop", ["n", "", "z"], ["last", "all"], "loop", body=counting())
    constants = {"n": np.int64(rounds), "z": np.float32(0)}
    model = model_of(graph_of([node], {"step": np.float32(0.1)}, ["last", "all"], constants))
    came = OnnxEvaluator(model).run({"step": np.asarray(np.float32(0.1))})
    step = float(np.float32(0.1))
    assert came["all"].shape == (rounds,)
    assert came["all"].dtype == np.float64
    np.testing.assert_allclose(came["all"], [step * (n + 1) for n in range(rounds)], rtol=1e-15)
    assert came["last"].shape == ()


def test_a_loop_ends_where_its_condition_says() -> None:
    body = counting()
    body.node[0].CopyFrom(helper.make_node("Less", ["more", "most"], ["still"]))
    body.node.insert(3, body.node.pop(0))
    for rounds, wanted in ((np.int64(9), 3), (None, 3), (np.int64(2), 2)):
        node = helper.make_node("Loop", ["" if rounds is None else "n", "", "z"], ["last", "all"], "loop", body=body)
        constants = {"z": np.float32(0), "most": np.float32(2.5), **({} if rounds is None else {"n": rounds})}
        model = model_of(graph_of([node], {"step": np.float32(1)}, ["last", "all"], constants))
        assert OnnxEvaluator(model).run({"step": np.asarray(np.float32(1))})["all"].tolist() == [1, 2, 3][:wanted]


def test_nested_graphs_read_from_all_that_is_around_them() -> None:
    """A Loop inside an If adds what the outermost graph has, in float64, on our kernels."""
    inner = helper.make_node("Loop", ["n", "", "z"], ["out", "all"], body=counting())
    then = helper.make_graph([inner], "then", [], [onnx.ValueInfoProto(name="out")],
                             [numpy_helper.from_array(np.int64(2), "n")])  # fmt: skip
    other = helper.make_graph([helper.make_node("Softmax", ["row"], ["soft"])], "else", [],
                              [onnx.ValueInfoProto(name="soft")])  # fmt: skip
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    assert set(inputs_of(node)) == {"c", "z", "step", "row"}
    feeds = {"step": np.float32(0.1), "z": np.float32(1), "row": np.zeros((2, 3), np.float32)}
    model = model_of(graph_of([node], {**feeds, "c": np.bool_(True)}, ["y"]), 11)
    assert OnnxEvaluator(model).run({**feeds, "c": np.asarray(True)})["y"] == 1 + 2 * float(np.float32(0.1))
    came = OnnxEvaluator(model).run({**feeds, "c": np.asarray(False)})["y"]
    np.testing.assert_allclose(came, 1 / 3, rtol=1e-15)  # over the whole row: opset 11, axis 1


def test_a_scan_backwards_along_another_axis() -> None:
    nodes = [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Identity", ["t"], ["o"])]
    ports = [[onnx.ValueInfoProto(name=n) for n in names] for names in (("s", "e"), ("t", "o"))]
    body = helper.make_graph(nodes, "body", *ports)
    named = {"num_scan_inputs": 1, "scan_input_axes": [1], "scan_input_directions": [1], "scan_output_axes": [1]}
    node = helper.make_node("Scan", ["z", "x"], ["last", "all"], body=body, **named)
    x = np.float32([[1, 2, 3], [4, 5, 6]])
    model = model_of(graph_of([node], {"x": x}, ["last", "all"], {"z": np.float32([0, 0])}))
    came = OnnxEvaluator(model).run({"x": x})
    assert came["all"].tolist() == [[3, 5, 6], [6, 11, 15]]
    assert came["last"].tolist() == [6, 15]


def function(attributes: Sequence[str] = (), defaults: Sequence[onnx.AttributeProto] = ()) -> onnx.FunctionProto:
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope"))
    nodes = [leaky, helper.make_node("Add", ["b", "more"], ["o"])]
    ids = [helper.make_opsetid("", 17)]
    return helper.make_function("my", "Leaky", ["a", "more"], ["o"], nodes, ids, list(attributes), list(defaults))


def test_a_models_own_functions() -> None:
    x = np.float32([-2, 3])
    call = helper.make_node("Leaky", ["x", "x"], ["y"], domain="my", slope=0.5)
    for made in (function(["slope"]), function(defaults=[helper.make_attribute("slope", 0.25)])):
        graph = graph_of([call], {"x": x}, ["y"])
        model = model_of(graph, functions=[made], opsets=[helper.make_opsetid("my", 1)])
        assert OnnxEvaluator(model).run({"x": x})["y"].tolist() == [-3, 6]
    del call.attribute[:]
    model = model_of(graph_of([call], {"x": x}, ["y"]), functions=[made], opsets=[helper.make_opsetid("my", 1)])
    assert OnnxEvaluator(model).run({"x": x})["y"].tolist() == [-2.5, 6], "its default"
    model = model_of(graph_of([call], {"x": x}, ["y"]), functions=[function(["slope"])])
    assert OnnxEvaluator(model).run({"x": x})["y"].tolist() == [2 * float(np.float32(0.01)) * -1 - 2, 6], (
        "the operator's own"
    )


def test_a_function_that_has_an_operators_name_goes_before_it() -> None:
    made = helper.make_function("", "Relu", ["a"], ["o"], [helper.make_node("Neg", ["a"], ["o"])],
                                [helper.make_opsetid("", 17)])  # fmt: skip
    model = model_of(
        graph_of([helper.make_node("Relu", ["x"], ["y"])], {"x": np.float32([1])}, ["y"]), functions=[made]
    )
    assert OnnxEvaluator(model).run({"x": np.float32([1])})["y"] == -1


# Values of all kinds


def test_tensors_of_rank_0_stay_so() -> None:
    for operator in ("Erf", "Relu", "Sigmoid", "Softsign", "Identity", "Gelu", "HardSwish", "Mish", "Cast"):
        (y,) = one(operator, [np.float32(0.5)], 20, **({"to": T.FLOAT16} if operator == "Cast" else {}))
        assert isinstance(y, np.ndarray), operator
        assert y.shape == (), operator
        assert y.dtype == np.float64, operator
    assert one("ReduceMean", [drawn(2, 3)], keepdims=0)[0].shape == ()
    assert one("Greater", [np.float32(1), np.float32(0)])[0].dtype == np.bool_


def test_sparse_initializers() -> None:
    values, places = np.float32([5, 7]), np.array([1, 3])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values, "w"), numpy_helper.from_array(places, "at"), [2, 2]
    )
    graph = graph_of([helper.make_node("Add", ["x", "w"], ["y"])], {"x": np.zeros((2, 2), np.float32)}, ["y"])
    graph.sparse_initializer.append(sparse)
    exact = OnnxEvaluator(model_of(graph))
    assert "w" in exact.constants
    assert list(exact.constants) == ["w"]
    assert exact.run({"x": np.zeros((2, 2), np.float32)})["y"].tolist() == [[0, 5], [0, 7]]


def test_sequences_and_optional_values() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["s"], axis=1),
        helper.make_node("SequenceErase", ["s", "one"], ["t"]),
        helper.make_node("SequenceInsert", ["t", "x", "one"], ["u"]),
        helper.make_node("SequenceAt", ["u", "last"], ["e"]),
        helper.make_node("SequenceLength", ["u"], ["n"]),
        helper.make_node("ConcatFromSequence", ["u"], ["y"], axis=1),
        helper.make_node("Optional", ["x"], ["o"]),
        helper.make_node("OptionalHasElement", ["o"], ["has"]),
        helper.make_node("OptionalGetElement", ["o"], ["back"]),
    ]
    constants = {"one": np.int64(1), "last": np.int64(-1)}
    came = OnnxEvaluator(model_of(graph_of(nodes, {"x": x}, ["u", "e", "n", "y", "has", "back"], constants))).run(
        {"x": x}
    )
    assert came["n"] == 3
    assert came["y"].tolist() == [[0, 0, 1, 2, 2], [3, 3, 4, 5, 5]]
    assert came["e"].tolist() == [[2], [5]]
    assert [part.dtype for part in came["u"]] == [np.float64] * 3  # type: ignore[comparison-overlap]
    assert came["has"]
    assert came["back"].tolist() == x.tolist()


def test_places_in_a_sequence_may_count_from_the_end() -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["a", "b", "a"], ["s"]),
        helper.make_node("SequenceErase", ["s", "last"], ["t"]),
        helper.make_node("SequenceInsert", ["t", "a", "last"], ["u"]),
        helper.make_node("ConcatFromSequence", ["u"], ["y"], axis=0),
    ]
    feeds = {"a": np.float32([1]), "b": np.float32([2])}
    model = model_of(graph_of(nodes, feeds, ["y"], {"last": np.int64(-1)}))
    assert OnnxEvaluator(model).run(feeds)["y"].tolist() == [1, 1, 2]


def test_whole_numbers_divide_and_overflow_as_their_type() -> None:
    a, b = np.array([-7, 7, -7, 7], np.int32), np.array([2, -2, -2, 2], np.int32)
    assert one("Div", [a, b])[0].tolist() == [-3, -3, 3, 3]
    assert one("Mod", [a, b])[0].tolist() == [1, -1, -1, 1]
    assert one("Mod", [a, b], fmod=1)[0].tolist() == [-1, 1, -1, 1]
    (y,) = one("Add", [np.uint8([250]), np.uint8([10])])
    assert y.dtype == np.uint8
    assert y.tolist() == [4]
    assert one("Mul", [np.int32([2**30]), np.int32([4])])[0].tolist() == [0]


def test_a_cast_rounds_nothing_but_overflows() -> None:
    x = np.float32([1 / 3, 65519, 65520, -70000, np.nan])
    (half,) = one("Cast", [x], to=T.FLOAT16)
    assert half[0] == float(x[0])
    assert half[1] == 65519
    assert half[2:4].tolist() == [np.inf, -np.inf]
    assert np.isnan(half[4])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(np.isinf(half), np.isinf(x.astype(np.float16)))
    assert one("Cast", [np.float32([-2.7, 2.7])], to=T.INT32)[0].tolist() == [-2, 2]
    assert one("Cast", [np.array(["0.1", "-inf"], object)], to=T.FLOAT)[0].tolist() == [0.1, -np.inf]
    assert one("Cast", [np.array([2**53 + 1])], to=T.DOUBLE)[0].tolist() == [2.0**53]


def test_inputs_of_every_type_of_number() -> None:
    for kind in (np.float16, np.float64, np.uint8, np.int8, np.int32, np.bool_):
        (y,) = one("Cast", [np.array([0, 1]).astype(kind)], to=T.FLOAT)
        assert y.dtype == np.float64
        assert y.tolist() == [0, 1]
    assert one("Neg", [np.float16([1 / 3])])[0].tolist() == [-float(np.float16(1 / 3))]


def test_gathers_and_slices_that_the_reference_gets_wrong() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert one("GatherElements", [x, np.array([[2, -1]])], axis=0)[0].tolist() == [[8, 9]]
    assert one("Slice", [x, np.array([-9]), np.array([-4]), np.array([1])])[0].shape == (3, 0)
    assert one("Slice", [x, np.array([3]), np.array([-9]), np.array([1]), np.array([-2])])[0][0].tolist() == [3, 1]
    assert one("OneHot", [np.array([1, -1, 5]), np.array([3]), np.float32([0, 2])])[0].tolist() == [
        [0, 2, 0],
        [0, 0, 2],
        [0, 0, 0],
    ]


def test_boxes_that_overlap_are_suppressed_in_a_whole_graph() -> None:
    boxes = np.float32([[[0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]]])
    scores = np.float32([[[0.5, 0.6, 0.9]]])
    nodes = [
        helper.make_node("Sigmoid", ["scores"], ["p"]),
        helper.make_node("NonMaxSuppression", ["boxes", "p", "most", "iou"], ["chosen"]),
        helper.make_node("Slice", ["chosen", "two", "three", "one"], ["which"]),
        helper.make_node("Squeeze", ["which", "one"], ["flat"]),
        helper.make_node("Gather", ["boxes", "flat"], ["y"], axis=1),
    ]
    constants = {name: np.array([n]) for n, name in enumerate(("one", "two", "three"), 1)}
    constants |= {"most": np.array([5]), "iou": np.float32([0.5])}
    model = model_of(graph_of(nodes, {"boxes": boxes, "scores": scores}, ["y", "chosen"], constants))
    came = OnnxEvaluator(model).run({"boxes": boxes, "scores": scores})
    assert came["chosen"].tolist() == [[0, 0, 2], [0, 0, 1]]
    assert came["y"].tolist() == [[boxes[0, 2].tolist(), boxes[0, 1].astype(float).tolist()]]


def test_tensors_without_elements() -> None:
    empty = np.zeros((0, 4), np.float32)
    for operator in ("Relu", "Softmax", "LogSoftmax", "Hardmax", "Erf"):
        assert one(operator, [empty])[0].shape == (0, 4)
    assert one("MatMul", [empty, drawn(4, 2)])[0].shape == (0, 2)
    assert one("Conv", [np.zeros((0, 4, 5, 5), np.float32), drawn(2, 4, 3, 3)])[0].shape == (0, 2, 3, 3)
    assert one("Concat", [empty, drawn(2, 4)], axis=0)[0].shape == (2, 4)
    assert one("ReduceSum", [empty, np.array([0])])[0].tolist() == [[0, 0, 0, 0]]


def test_arithmetic_of_opset_6_lies_where_its_axis_says() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    (y,) = one("Add", [x, np.float32([1, 2, 3])], 6, broadcast=1, axis=1)
    assert y[0, :, 0].tolist() == [1, 2, 3]
    assert one("PRelu", [x - 1, np.float32([1, 2, 3])], 6)[0][0, :, 0].tolist() == [-1, -2, -3]


# Refusals


@pytest.mark.parametrize("operator", ["RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"])
def test_dice_are_refused_by_name(operator: str) -> None:
    with pytest.raises(
        RefusedOperatorError, match=rf"{operator} 'node' cannot .* random numbers.* \(opset 17\)"
    ) as error:
        one(operator, [drawn(2, 2)])
    assert (error.value.operator, error.value.opset) == (operator, 17)


def test_dropout_is_dice_in_training_only() -> None:
    x = drawn(2, 3)
    y, mask = one("Dropout", [x], outputs=2)
    assert np.array_equal(y, x)
    assert mask.dtype == np.bool_
    assert mask.all()
    assert np.array_equal(one("Dropout", [x, np.float32(0), np.bool_(True)])[0], x)
    with pytest.raises(RefusedOperatorError, match=r"Dropout 'node' .* training mode"):
        one("Dropout", [x, np.float32(0.5), np.bool_(True)])
    with pytest.raises(RefusedOperatorError, match="Dropout"):
        one("Dropout", [x], 6)
    assert np.array_equal(one("Dropout", [x], 6, is_test=1)[0], x)


def test_dice_are_found_wherever_they_lie() -> None:
    body = helper.make_graph([helper.make_node("RandomNormal", [], ["r"], shape=[1])], "b", [], [port("r")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    graph = graph_of([node], {"c": np.bool_(True)}, ["y"])
    assert random_operators(model_of(graph)) == ["RandomNormal"]
    with pytest.raises(RefusedOperatorError, match="RandomNormal"):
        OnnxEvaluator(model_of(graph)).run({"c": np.asarray(True)})
    assert not random_operators(model_of(graph_of([], {}, [])))


def test_what_is_not_of_the_standard_is_refused() -> None:
    x = np.float32([1])
    node = helper.make_node("Conv", ["x"], ["y"], "own", domain="my.own")
    with pytest.raises(RefusedOperatorError, match=r"Conv 'own' .*'my.own' is not the standard's.* of my\.own"):
        OnnxEvaluator(model_of(graph_of([node], {"x": x}, ["y"]), opsets=[helper.make_opsetid("my.own", 3)])).run(
            {"x": x}
        )
    with pytest.raises(RefusedOperatorError, match="no such operator"):
        one("NoSuch", [x])
    with pytest.raises(RefusedOperatorError, match="only opsets from 6 on"):
        one("Relu", [x], 5)
    with pytest.raises(RefusedOperatorError, match="only opsets from 7 on"):
        one("LSTM", [x], 6)
    with pytest.raises(RefusedOperatorError, match="bits"):
        one("BitCast", [x], 26, to=T.INT32)


def test_pictures_need_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_export.reparam.evaluate.kernels.plain.find_spec", lambda _: None)
    with pytest.raises(RefusedOperatorError, match=r"ImageDecoder 'node' .* pip install Pillow"):
        one("ImageDecoder", [np.zeros(4, np.uint8)], 20)


def test_what_nothing_makes_is_named() -> None:
    nodes = [helper.make_node("Relu", ["b"], ["y"], "late"), helper.make_node("Relu", ["x"], ["b"], "early")]
    with pytest.raises(ExportError, match=r"Relu 'late' reads 'b', expected .* sort the nodes"):
        OnnxEvaluator(model_of(graph_of(nodes, {"x": np.float32([1])}, ["y"]))).run({"x": np.float32([1])})


def test_an_output_that_nothing_makes_is_named() -> None:
    with pytest.raises(ExportError, match=r"Erf 'node' has 1 outputs; the node asks for \['o1'\] as well"):
        one("Erf", [drawn(2)], outputs=2)


@pytest.mark.parametrize("operator", ["Identity", "Transpose", "Flatten", "Dropout"])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_what_comes_lies_apart_and_can_be_written_to(operator: str, kind: Any) -> None:
    x = np.arange(6).astype(kind).reshape(2, 3)
    x.flags.writeable = False
    (y,) = one(operator, [x])
    assert y.flags.writeable
    assert not np.may_share_memory(x, y)
    torch.from_numpy(y)  # warns of what cannot be written to


def test_nothing_that_was_fed_is_changed() -> None:
    array = np.zeros(2)
    with pytest.raises(ValueError, match="read-only"):
        kept_from_writing(array)[0] = 1
    array[0] = 1
    x = drawn(2, 3).astype(np.float64)
    kept = x.copy()
    for operator in ("Softmax", "Relu", "CumSum", "TopK"):
        more = {"CumSum": [np.int64(0)], "TopK": [np.array([2])]}.get(operator, [])
        one(operator, [x, *more], outputs=2 if operator == "TopK" else 1)
        np.testing.assert_array_equal(x, kept)
