"""The float64 evaluation is right, and keeps nothing longer than it is needed."""

from __future__ import annotations

import weakref

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from attn_export.errors import ExportError
from attn_export.export.onnx.torch_export import export
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input
from attn_export.reparam.adapters.onnx.nodes import inputs_of
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from tests.export.models import rich

X = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)


def one_node(op: str, *shapes: tuple[int, ...], outputs: int = 1, **attributes: object) -> onnx.ModelProto:
    names = [f"i{n}" for n in range(len(shapes))]
    out = [f"o{n}" for n in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, out, "the_node", **attributes)],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in out],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def drawn(model: onnx.ModelProto) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    random = np.random.default_rng(1)
    return {
        v.name: random.standard_normal([d.dim_value for d in v.type.tensor_type.shape.dim]).astype(np.float32)
        for v in model.graph.input
    }


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("Conv", ((2, 4, 7, 9), (6, 4, 3, 3), (6,)), {"pads": [1, 0, 1, 2]}),
        ("Conv", ((2, 4, 7, 9), (6, 2, 3, 3)), {"group": 2, "strides": [2, 1], "dilations": [1, 2]}),
        ("Conv", ((2, 4, 7), (6, 4, 3)), {"auto_pad": "SAME_UPPER", "strides": [2]}),
        ("Conv", ((2, 4, 7), (6, 4, 3)), {"auto_pad": "SAME_LOWER"}),
        ("ConvTranspose", ((2, 4, 7, 5), (4, 6, 3, 3), (6,)), {"pads": [1, 0, 1, 2], "strides": [2, 2]}),
        ("ConvTranspose", ((1, 4, 5), (4, 3, 3)), {"strides": [2], "output_padding": [1], "pads": [1, 1]}),
        ("ConvTranspose", ((1, 4, 5), (4, 4, 3)), {"strides": [2], "dilations": [2], "group": 4}),
        ("AveragePool", ((2, 4, 7, 9),), {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "strides": [2, 1]}),
        ("AveragePool", ((2, 4, 7),), {"kernel_shape": [3], "pads": [1, 1], "count_include_pad": 1}),
        ("AveragePool", ((2, 4, 8),), {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
        ("MaxPool", ((2, 4, 7, 9),), {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "strides": [2, 1]}),
        ("MaxPool", ((2, 4, 8),), {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
    ],
)
def test_windows_agree_with_the_runtime(
    op: str, shapes: tuple[tuple[int, ...], ...], attributes: dict[str, object]
) -> None:
    model = one_node(op, *shapes, **attributes)
    feeds = drawn(model)
    model.ir_version = 10
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, feeds)[0]
    came = OnnxEvaluator(model).run(feeds)["o0"]
    assert came.dtype == np.float64
    np.testing.assert_allclose(came, wanted, atol=1e-5)


def test_layer_norm_agrees_with_pytorch_in_float64() -> None:
    model = one_node("LayerNormalization", (2, 3, 8), (3, 8), (3, 8), axis=1, epsilon=0.5)
    feeds = drawn(model)
    x, w, b = (torch.from_numpy(v).double() for v in feeds.values())
    wanted = nn.functional.layer_norm(x, (3, 8), w, b, 0.5)
    np.testing.assert_allclose(OnnxEvaluator(model).run(feeds)["o0"], wanted.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", ["se", "self_attention"])
def test_an_export_evaluates_to_the_modules_truth(name: str) -> None:
    subject = from_spec(name, MECHANISMS[name], "test")
    feeds = subject.example()
    with torch.no_grad():
        wanted = subject.module.double()(*(v.double() for v in feeds.values())).numpy()
    subject.module.float()
    came = OnnxEvaluator(export(subject).model).run({k: v.numpy() for k, v in feeds.items()})["y"]
    # The exporter folds constants such as the root of the head size in float32.
    assert np.linalg.norm(came - wanted) <= 1e-7 * np.linalg.norm(wanted)


def test_only_what_is_wanted_is_evaluated() -> None:
    model = rich()
    model.graph.node[10].op_type = "NoSuchOperator"  # behind everything wanted below
    assert set(OnnxEvaluator(model).run({"x": X}, ["conv", "pool"])) == {"conv", "pool"}
    with pytest.raises(ExportError, match="NoSuchOperator 'n_sum' cannot be evaluated in float64"):
        OnnxEvaluator(model).run({"x": X})


def test_tensors_are_forgotten_after_their_last_use() -> None:
    exact = OnnxEvaluator(rich())
    seen: dict[str, weakref.ref[object]] = {}
    for name, value in exact.visit({"x": X}, ["conv", "erf", "norm", "y"]):
        seen[name] = weakref.ref(value)
        if name == "y":
            alive = [key for key, ref in seen.items() if ref() is not None]
        del value
    assert alive == ["y"]


def test_float16_values_and_casts_become_float64() -> None:
    half = numpy_helper.from_array(np.float16([1 / 3]), "third")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("Mul", ["h", "third"], ["y"]),
        ],
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1])],
        [half],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    came = OnnxEvaluator(model).run({"x": np.float32([0.1])})["y"]
    assert came.dtype == np.float64
    assert came[0] == float(np.float32(0.1)) * float(np.float16(1 / 3))


def test_what_a_sub_graph_reads_counts_as_read() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["outer", "c"], ["r"])],
        "g",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.float32([1]), "c")],
    )
    node = helper.make_node("If", ["cond"], ["out"], then_branch=inner, else_branch=inner)
    assert set(inputs_of(node)) == {"cond", "outer"}
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
            helper.make_tensor_value_info("outer", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    came = OnnxEvaluator(model).run({"cond": np.asarray(True), "outer": np.float32([0.1])})["out"]
    assert came[0] == 1 + float(np.float32(0.1))


def test_a_module_of_ones_own() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.AvgPool2d(3, 2, 1), nn.Upsample(scale_factor=2))
    subject = Subject("own", module.eval(), (Input("x", (1, 3, 8, 8)),), {})
    feeds = subject.example()
    with torch.no_grad():
        wanted = module.double()(feeds["x"].double()).numpy()
    module.float()
    came = OnnxEvaluator(export(subject).model).run({"x": feeds["x"].numpy()})["y"]
    assert np.linalg.norm(came - wanted) <= 1e-7 * np.linalg.norm(wanted)
