"""Quantisers compute what ONNX Runtime's do, in every form that files have them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.errors import ExportError
from attn_export.reparam.proof.exact import Exact

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
    came = Exact(model).run({"x": X}, ["q", "y"])
    np.testing.assert_allclose(came["y"], want, rtol=1e-6, atol=1e-7)
    assert came["y"].dtype == np.float64
    assert came["q"].dtype == (np.uint8 if zero is None else np.asarray(zero).dtype)
    assert not np.array_equal(came["y"], X), "something was rounded"


def test_blocks_of_one_axis_share_a_scale() -> None:
    scales = np.array([[[0.1, 0.2]] * 3] * 2, np.float32)
    model = both(scales, None, 21, axis=2, block_size=2)
    (want,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    np.testing.assert_allclose(Exact(model).run({"x": X})["y"], want, rtol=1e-6, atol=1e-7)


def test_what_is_no_integer_is_refused() -> None:
    model = both(0.1, None, 21)
    del model.graph.node[1:]
    model.graph.node[0].output[0] = "y"
    model.graph.node[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.FLOAT8E4M3FN))
    with pytest.raises(ExportError, match="is no integer"):
        Exact(model).run({"x": X})
