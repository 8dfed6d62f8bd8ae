"""Quantisers compute what ONNX Runtime's do, in every form that files have them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.errors import ExportError
from attn_export.reparam.evaluate.onnx import OnnxEvaluator

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32) * 3


def both(scale: object, zero: np.ndarray | None, opset: int, **attributes: int) -> onnx.ModelProto:
    """x → quantised → back."""
    extra = [numpy_helper.from_array(np.asarray(scale, np.float32), "s")]
    extra += [] if zero is None else [numpy_helper.from_array(zero, "z")]
    names = [tensor.name for tensor in extra]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *names], ["q"], "quantise", **attributes),
        helper.make_node("DequantizeLinear", ["q", *names], ["y"], "back", **attributes),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3, 4]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "both", ports[:1], ports[1:], extra)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


CHANNELS = [0.02, 0.3, 0.5]


@pytest.mark.parametrize("opset", [13, 18, 19, 21])
@pytest.mark.parametrize(
    ("scale", "zero", "attributes"),
    [
        (0.03, np.int8(0), {}),
        (0.03, np.uint8(128), {}),
        (0.03, None, {}),
        (CHANNELS, np.array([0, 5, -7], np.int8), {"axis": 1}),
        ([0.02, 0.3], np.array([1, 250], np.uint8), {"axis": 0}),
        ([0.1, 0.2, 0.3, 0.4], np.zeros(4, np.int8), {"axis": -1}),
    ],
)
def test_they_agree_with_the_runtime(
    opset: int, scale: object, zero: np.ndarray | None, attributes: dict[str, int]
) -> None:
    model = both(scale, None if zero is None else np.asarray(zero), opset, **attributes)
    (want,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    came = OnnxEvaluator(model).run({"x": X}, ["q", "y"])
    np.testing.assert_allclose(came["y"], want, rtol=1e-6, atol=1e-7)
    assert came["y"].dtype == np.float64
    assert came["q"].dtype == (np.uint8 if zero is None else np.asarray(zero).dtype)
    assert not np.array_equal(came["y"], X), "something was rounded"


def test_blocks_of_one_axis_share_a_scale() -> None:
    scales = np.array([[[0.1, 0.2]] * 3] * 2, np.float32)
    model = both(scales, None, 21, axis=2, block_size=2)
    (want,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    np.testing.assert_allclose(OnnxEvaluator(model).run({"x": X})["y"], want, rtol=1e-6, atol=1e-7)


def test_codes_of_float8_are_rounded_as_their_type_has_it() -> None:
    model = both(0.1, None, 21)
    del model.graph.node[1:]
    model.graph.node[0].output[0] = "y"
    model.graph.node[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.FLOAT8E4M3FN))
    came = OnnxEvaluator(model).run({"x": np.float32([0.1, -0.21, 100.0])})["y"]
    assert came.dtype == ml_dtypes.float8_e4m3fn
    # ±2.1 lies between 2 and 2.25; 448 is the largest there is.
    assert came.astype(np.float64).tolist() == [1.0, -2.0, 448.0]


def test_another_type_is_refused() -> None:
    model = both(0.1, None, 21)
    model.graph.node[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.INT32))
    with pytest.raises(ExportError, match="QuantizeLinear 'quantise' cannot be evaluated"):
        OnnxEvaluator(model).run({"x": X})


def test_a_tie_that_float32_does_not_see_is_none() -> None:
    """-2.5 / (5 / 255) is -127.5 in exact arithmetic and a little more in float32, where every runtime divides."""
    model = both(np.float32(5) / np.float32(255), np.uint8(153), 13)
    x = np.full((2, 3, 4), -2.5, np.float32)
    (want,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert OnnxEvaluator(model).run({"x": x}, ["q"])["q"].reshape(-1).tolist() == [26] * 24
    np.testing.assert_allclose(want, (26 - 153) * 5 / 255, rtol=1e-6)
