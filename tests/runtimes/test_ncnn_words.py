"""What pnnx and ncnn say and write, read without either."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.deploy_tests.backends.ncnn import layout
from attn_export.errors import BackendError, ExportError
from attn_export.export.converters.ncnn import converter, pnnx
from attn_export.export.converters.ncnn.readable import readable
from attn_export.types import Array, TensorSpec

SAID = """pnnxparam = model.pnnx.param
inputshape = [1,3,64,64]f32
inputshape2 =
get inputshape from traced inputs
############# pass_level0 onnx
inline_containers ...                 0.00ms
   87.97ms
┌──────────────────┬──────────┬──────────┐
│ node             │ 27       │ \x1b[32m20      \x1b[0m │
unsupported normalize for 5-rank tensor
"""
SCRIPT = """        with net.create_extractor() as ex:
            ex.input("in0", ncnn.Mat(in0.numpy(), batch_index=0).clone())
            ex.input("in1", ncnn.Mat(in1.to(torch.int32).numpy(), batch_index=233).clone())
            ex.input("in2", ncnn.Mat(in2.numpy()).clone())

            _, out0 = ex.extract("out0")
            out.append(torch.from_numpy(out0.numpy(batch_index=0)))
            _, out1 = ex.extract("out1")
            out.append(torch.from_numpy(out1.numpy(batch_index=233)))
"""
PARAM = """7767517
4 4
Input                    in0                      0 1 in0
ReduceMax                ReduceMax_0              1 1 in0 1
Tensor.reshape           Tensor.reshape_12        1 1 1 2
ReduceMax                ReduceMax_8              1 1 2 out0
"""
X = TensorSpec("x", "float32", ("b", 3, "h"))
Y = TensorSpec("y", "float32", ("b", 10))


def test_only_what_is_no_talk_is_a_complaint() -> None:
    assert pnnx.complaints(SAID) == ["unsupported normalize for 5-rank tensor"]


def test_the_batch_is_read_from_its_script() -> None:
    assert pnnx.batches(SCRIPT) == ({0: 0, 1: None, 2: None}, {0: 0, 1: None})


def graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["a"], name="n0"),
        helper.make_node("Reshape", ["a", "s"], ["b"], name="cut"),
        helper.make_node("Reshape", ["b", "s"], ["c"], name="paste"),
        helper.make_node("ReduceMax", ["c"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y]))


def test_a_layer_that_is_not_there_is_said_as_the_node_that_it_was() -> None:
    rows = pnnx.layers(PARAM)
    assert [row.type for row in rows] == ["Input", "ReduceMax", "Tensor.reshape", "ReduceMax"]
    assert pnnx.behind({"ReduceMax"}, rows, graph()) == ["ReduceMax 'n0'", "ReduceMax 'y'"]
    said = "Tensor.reshape 'Tensor.reshape_12', made of one of Reshape 'cut', Reshape 'paste'"
    assert pnnx.behind({"Tensor.reshape"}, rows, graph()) == [said]
    assert pnnx.behind({"Own"}, [pnnx.Layer("Own", "Own_1")], graph()) == ["Own 'Own_1'"]


def test_a_layout_has_the_names_of_the_contract_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pnnx, "version", lambda: "pnnx")
    found = converter.layout((X,), (Y,), {"b": 1, "h": 7}, SCRIPT)
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 3, 7], "batch": 0}]
    assert found["outputs"] == [{"name": "y", "dtype": "float32", "shape": [1, 10], "batch": 0}]
    half = TensorSpec("y", "float32", ("b", "h//2"))
    assert converter.layout((X,), (half,), {"b": 1, "h": 7}, SCRIPT)["outputs"][0]["shape"] == [1, None]
    with pytest.raises(ExportError, match=r"takes axis 0 of x, \[2, 3, 7\], for a batch of one"):
        converter.layout((X,), (Y,), {"b": 2, "h": 7}, SCRIPT)
    with pytest.raises(ExportError, match="dropped output y: it is none of the file's"):
        converter.layout((X,), (Y,), {"b": 1, "h": 7}, SCRIPT.replace("out0", "out7"))


def test_an_element_type_that_it_has_no_word_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pnnx, "version", lambda: "pnnx")
    assert pnnx.shapes([X, TensorSpec("i", "int64", (4,))], {"b": 1, "h": 7}) == "[1,3,7]f32,[4]i64"
    with pytest.raises(ExportError, match="the input x is float64"):
        pnnx.shapes([TensorSpec("x", "float64", (4,))], {})


def written(folder: Path, text: str) -> Path:
    (folder / "m.json").write_text(text)
    return folder / "m.param"


def test_a_layout_is_read_and_held_to_the_contract(tmp_path: Path) -> None:
    rows = converter.layout((X,), (Y,), {"b": 1, "h": 7}, SCRIPT)
    path = written(tmp_path, json.dumps(rows))
    found = layout.read(path)
    assert found.inputs == (layout.Port("x", "float32", (1, 3, 7), 0),)
    layout.held_to(found, (X,), (Y,), path)
    layout.held_to(found, (), (), path)
    with pytest.raises(BackendError, match="expected x, got y"):
        layout.held_to(layout.Layout(found.outputs, found.inputs), (X,), (Y,), path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"inputs": []}',
        '{"inputs": [{"name": "x", "dtype": "float32", "shape": [2], "batch": 0}], "outputs": []}',
        '{"inputs": [{"name": "x", "dtype": "float32", "shape": [1], "batch": 1}], "outputs": []}',
        " " * (layout.LARGEST + 1),
    ],
    ids=["empty", "list", "no outputs", "batch of two", "no such axis", "too long"],
)
def test_what_is_no_layout_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="expected the names and sizes of inputs and outputs, got"):
        layout.read(written(tmp_path, text))


def test_integers_are_held_in_32_bits_or_refused() -> None:
    port = layout.Port("i", "int64", (2,), None)
    assert port.stored(np.array([1, -2])).dtype == np.int32
    with pytest.raises(ValueError, match="i holds integers beyond 32 bits"):
        port.stored(np.array([1 << 40, 0]))
    assert port.stored(np.asfortranarray(np.zeros((2, 3)))).flags.c_contiguous


def _reducing(kind: str, axes: list[int], keep: int) -> onnx.ModelProto:
    """One reduction as opset 18 has it, behind a split in equal parts."""
    nodes = [
        helper.make_node("Split", ["x"], ["left", "right"], "halves", axis=1, num_outputs=2),
        helper.make_node("Sub", ["left", "right"], ["less"], "sub"),
        helper.make_node(kind, ["less", "axes"], ["y"], "reduced", keepdims=keep),
    ]
    constant = numpy_helper.from_array(np.array(axes, np.int64), "axes")
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4, 3, 5])
    rank = 4 if keep else 4 - len(axes)
    found = helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{axis}" for axis in range(rank)])
    return _model(nodes, [given], [found], [constant])


def _model(
    nodes: list[onnx.NodeProto],
    given: list[onnx.ValueInfoProto],
    found: list[onnx.ValueInfoProto],
    constants: list[TensorProto],
    opset: int = 18,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", given, found, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _run(model: onnx.ModelProto, x: Array) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"x": x})[0]
    return found


GIVEN = [TensorSpec("x", "float32", ("b", 4, 3, 5))]


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[1], [-1], [2, 3], [3, 2], [-1, -2], [1, -1]], ids=str)
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSum"])
def test_reductions_are_written_as_pnnx_reads_them(kind: str, axes: list[int], keep: int) -> None:
    model = _reducing(kind, axes, keep)
    before = model.SerializeToString(deterministic=True)
    found = readable(model, GIVEN, {"b": 1})
    assert model.SerializeToString(deterministic=True) == before
    assert found.opset_import[0].version == 17
    reductions = [node for node in found.graph.node if node.op_type.startswith("Reduce")]
    if kind == "ReduceSum" and len(axes) > 1:
        assert len(reductions[0].input) == 2, "several axes that are an input are read, and a sum has no other form"
    else:
        assert all(len(node.input) == 1 for node in reductions)
    if kind in ("ReduceMax", "ReduceMin") and axes != [1, -1]:
        assert len(reductions) == len(axes), "one after the other"
    x = np.random.default_rng(0).standard_normal((1, 4, 3, 5)).astype(np.float32)
    np.testing.assert_allclose(_run(found, x), _run(model, x), rtol=1e-6, atol=1e-6)


def test_the_logarithm_of_a_softmax_is_none_of_a_zero() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4, 3, 5])
    model = _model(
        [helper.make_node("LogSoftmax", ["x"], ["y"], "soft", axis=2)],
        [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4, 3, 5])],
        [],
    )
    found = readable(model, GIVEN, {"b": 1})
    assert [node.op_type for node in found.graph.node] == [
        "ReduceMax", "Sub", "Exp", "ReduceMean", "Mul", "Log", "Sub",
    ]  # fmt: skip
    x = np.random.default_rng(0).standard_normal((1, 4, 3, 5)).astype(np.float32) * 1e5
    np.testing.assert_allclose(_run(found, x), _run(model, x), rtol=1e-6)


def test_what_has_nothing_to_write_anew_or_means_something_else_is_left_as_it_is() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4, 3, 5])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4, 3, 5])
    plain = _model([helper.make_node("Relu", ["x"], ["y"], "relu")], [value], [out], [])
    assert readable(plain, GIVEN, {"b": 1}) is plain
    later = _reducing("ReduceMean", [1], 1)
    later.opset_import[0].version = 20
    later.graph.node[1].CopyFrom(helper.make_node("AveragePool", ["left"], ["less"], "pool", kernel_shape=[1, 1]))
    assert readable(later, GIVEN, {"b": 1}) is later, "opset 19 counts its windows otherwise"
    unknown = _reducing("ReduceMean", [1], 1)
    del unknown.graph.initializer[:]
    unknown.graph.input.append(helper.make_tensor_value_info("axes", TensorProto.INT64, [1]))
    assert readable(unknown, GIVEN, {"b": 1}) is unknown, "axes that are computed"
