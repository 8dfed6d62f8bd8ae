"""An ONNX file goes down the same pipeline; its truth is its own graph in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from attn_export import bundle
from attn_export.errors import SubjectError, UsageError
from attn_export.export.exporting import export_subject
from attn_export.export.onnx.simplify import simplify
from attn_export.export.reference import cases
from attn_export.export.sources.onnx_file import read
from attn_export.types import Dim
from tests.tools.run import run


def save(path: Path, dims: tuple[int | str, ...] = ("N", 3, 8, 8), name: str = "image", opset: int = 13) -> Path:
    """Conv 3×3, Conv 1×1 beside it, their sum, batch norm: four nodes that are one convolution."""
    random = np.random.default_rng(0)

    def constant(key: str, *shape: int, low: float = -1.0) -> TensorProto:
        return numpy_helper.from_array(random.uniform(low, 1, shape).astype(np.float32), key)

    nodes = [
        helper.make_node("Conv", [name, "w3", "b3"], ["one"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Conv", [name, "w1"], ["two"], kernel_shape=[1, 1]),
        helper.make_node("Add", ["one", "two"], ["sum"]),
        helper.make_node("BatchNormalization", ["sum", "g", "b", "m", "v"], ["logits"]),
    ]
    weights = [constant("w3", 4, 3, 3, 3), constant("b3", 4), constant("w1", 4, 3, 1, 1)]
    weights += [constant(key, 4) for key in "gbm"] + [constant("v", 4, low=0.5)]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (dims[0], 4, *dims[2:]))]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def test_the_truth_is_the_graph_in_float64(tmp_path: Path) -> None:
    subject = read(save(tmp_path / "net.onnx"))
    assert subject.sizes == {"b": 2}
    made = cases(subject)
    assert {case.inputs["image"].shape[0] for case in made} >= {1, 2, 3, 4, 9, 17}
    model = onnx.load(tmp_path / "net.onnx")
    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()).double() for t in model.graph.initializer}
    for case in made:
        x = torch.from_numpy(case.inputs["image"]).double()
        y = torch.conv2d(x, tensors["w3"], tensors["b3"], padding=1) + torch.conv2d(x, tensors["w1"])
        y = torch.nn.functional.batch_norm(y, tensors["m"], tensors["v"], tensors["g"], tensors["b"])
        np.testing.assert_allclose(case.reference["logits"], y.numpy(), rtol=1e-12, atol=1e-12)
        assert 0 <= case.float32_error["logits"] < 1e-5 * np.linalg.norm(case.reference["logits"])


def test_the_whole_job_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("net.onnx"))
    done = run("net.onnx", "--fuse", "--no-bench", "-q", "-o", "out")
    assert done.code == 0, done.err
    whole = bundle.read(Path("out"))
    assert whole.manifest["operators"] == {"Conv": 1}
    assert whole.manifest["opset"] == 13
    assert whole.inputs[0].shape == ("N", 3, 8, 8)
    assert whole.dynamic_dims == (Dim("N"),)
    assert run("verify", "out", "--fresh", "3").code == 0
    assert "net.onnx sha256" in whole.manifest["subject"]["weights"]


def test_open_sizes_are_tried(tmp_path: Path) -> None:
    subject = read(save(tmp_path / "net.onnx", ("N", 3, "H", "W")))
    assert subject.sizes == {"b": 2, "H": 224, "W": 224}
    assert [dim.name for dim in subject.dynamic] == ["b", "H", "W"]
    assert not subject.notes
    assert export_subject(subject).contract.inputs[0].shape == ("N", 3, "H", "W")


def test_a_number_fixes_an_open_size_and_a_name_lets_it_vary(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", ("N", 3, "H", "W"))
    subject = read(path, ["1x3x8x10"])
    assert subject.sizes == {}
    assert subject.dynamic == ()
    assert subject.inputs[0].shape == (1, 3, 8, 10)
    contract = export_subject(subject).contract
    assert contract.inputs[0].shape == (1, 3, 8, 10)
    assert contract.outputs[0].shape == (1, 4, 8, 10)
    subject = read(path, ["b=2x3xH=16..64%16x10"])
    assert subject.sizes == {"b": 2, "H": 16}
    assert subject.dynamic == (Dim("b"), Dim("H", 16, 64, 16))


def joined(path: Path, halvings: int) -> Path:
    """A network that halves its input, doubles it again, and adds it to the input."""
    nodes, last = [], "x"
    for index in range(halvings):
        nodes.append(helper.make_node("AveragePool", [last], [f"p{index}"], kernel_shape=[2, 2], strides=[2, 2]))
        last = f"p{index}"
    scales = numpy_helper.from_array(np.array([1, 1, 2**halvings, 2**halvings], np.float32), "scales")
    nodes.append(helper.make_node("Resize", [last, "", "scales"], ["up"], mode="nearest"))
    nodes.append(helper.make_node("Add", ["up", "x"], ["y"]))
    dims = ["n", 3, "height", "width"]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [scales])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_sizes_that_break_are_narrowed_to_a_step_and_said(tmp_path: Path) -> None:
    subject = read(joined(tmp_path / "net.onnx", 3))
    assert subject.dynamic == (Dim("b"), Dim("height", step=8), Dim("width", step=8))
    assert [note.partition(" (")[0] for note in subject.notes] == [
        "'height' is narrowed to multiples of 8: 225 breaks",
        "'width' is narrowed to multiples of 8: 225 breaks",
    ]
    assert {case.inputs["x"].shape[2] % 8 for case in cases(subject)} == {0}


def test_a_size_that_cannot_vary_is_fixed_and_said(tmp_path: Path) -> None:
    flat = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    constants = [numpy_helper.from_array(np.array([2, 12]), "shape")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12])]
    graph = helper.make_graph(flat, "g", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    subject = read(tmp_path / "n.onnx")
    assert subject.dynamic == ()
    assert subject.inputs[0].shape == (2, 3, 4)
    assert subject.notes[0].startswith("'b' is fixed at 2: 3 breaks (Reshape")
    assert export_subject(subject).contract.outputs[0].shape == (2, 12)


def test_the_smallest_and_the_largest_size_are_found(tmp_path: Path) -> None:
    """A window of five rows, and a table of 40 positions."""
    table = numpy_helper.from_array(np.ones((1, 1, 40, 4), np.float32), "table")
    ends = [numpy_helper.from_array(np.array([n]), name) for n, name in ((0, "zero"), (2, "axis"))]
    nodes = [
        helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[5, 1]),
        helper.make_node("Shape", ["x"], ["length"], start=2, end=3),
        helper.make_node("Slice", ["table", "zero", "length", "axis"], ["positions"]),
        helper.make_node("Add", ["x", "positions"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "t", 4])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, None, 4]) for name in ("y", "pooled")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [table, *ends])
    path = tmp_path / "n.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    subject = read(path)
    assert subject.sizes == {"t": 32}
    assert subject.dynamic == (Dim("t", 4, 36),)
    assert [note.partition(" (")[0] for note in subject.notes] == [
        "'t' is left open and is taken at 32, where it runs",
        "'t' is at least 4: 2 breaks",
        "'t' is at most 36: 72 breaks",
    ]
    narrow = read(path, ["1x1xt=32..33x4"])
    assert [case.name for case in cases(narrow)].count("t=33") == 1


def two_inputs(path: Path, first: list[str | None], second: list[str | None]) -> Path:
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, first)]
    inputs.append(helper.make_tensor_value_info("mask", TensorProto.INT64, second))
    table = numpy_helper.from_array(np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=1),
        helper.make_node("Unsqueeze", ["kept", "axis"], ["wide"]),
        helper.make_node("Mul", ["words", "wide"], ["y"]),
    ]
    constants = [table, numpy_helper.from_array(np.array([2]), "axis")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None, 8])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_sizes_that_must_be_equal_vary_together(tmp_path: Path) -> None:
    subject = read(two_inputs(tmp_path / "net.onnx", [None, None], [None, None]))
    assert subject.inputs[0].shape == subject.inputs[1].shape == ("b", "ids_1")
    assert subject.notes == ("'ids_1' and 'mask_1' must have one size, and vary together",)
    assert [dim.name for dim in subject.dynamic] == ["b", "ids_1"]


def test_what_is_looked_up_in_a_table_is_drawn_from_all_of_its_rows(tmp_path: Path) -> None:
    subject = read(two_inputs(tmp_path / "net.onnx", ["n", "t"], ["n", "t"]))
    drawn = subject.example(sizes={"t": 1000})
    assert (int(drawn["ids"].min()), int(drawn["ids"].max())) == (0, 49)
    assert set(drawn["mask"].unique().tolist()) == {0, 1}
    narrowed = read(tmp_path / "net.onnx", ["ids:b=2xt=4:int64[10,12]"]).example(sizes={"t": 1000})
    assert set(narrowed["ids"].unique().tolist()) == {10, 11, 12}


def test_a_file_that_runs_at_no_size_gets_a_template(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info("x:0", TensorProto.FLOAT, ["n", "h", "w"])]
    inputs.append(helper.make_tensor_value_info("k", TensorProto.INT64, [2]))
    wrong = numpy_helper.from_array(np.ones((7, 5), np.float32), "w")
    wide = numpy_helper.from_array(np.array([0, 0, 11]), "shape")
    nodes = [
        helper.make_node("Reshape", ["x:0", "shape"], ["r"]),
        helper.make_node("Gather", ["r", "k"], ["g"], axis=2),
        helper.make_node("Slice", ["g", "k", "k"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [wrong, wide])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    with pytest.raises(
        UsageError, match=r"ran at none that were tried \(.*--input x:0:b=2xh=16xw=16 --input k:2:int64\[0,1\]"
    ):
        read(tmp_path / "n.onnx")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (["2x4x8x8"], "dimension 1 is 3 in .*; --input says 4"),
        (["2x3x8"], "has 4 dimensions; --input gives 3"),
        (["other:2x3x8x8"], "--input names 'other'; the file has image"),
    ],
)
def test_sizes_that_contradict_the_file_are_refused(tmp_path: Path, shapes: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(save(tmp_path / "net.onnx"), shapes)


def test_what_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="there is no file"):
        read(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(SubjectError, match="is not an ONNX file"):
        read(tmp_path / "text.onnx")


def test_a_word_for_a_size_that_nobody_worked_out_may_become_a_number(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", ("N", 3, 8, 8))
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "Conv_1_o0__d1"
    onnx.save(model, path)
    exported = export_subject(read(path))
    assert exported.contract.outputs[0].shape == ("N", "?", 8, 8)
    assert simplify(exported).model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 4


def test_a_batch_that_stands_on_another_axis_is_found(tmp_path: Path) -> None:
    state = numpy_helper.from_array(np.ones((1, 4), np.float32), "w")
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["mean", "w"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "zero"], ["layer"]),
        helper.make_node("Concat", ["state", "layer"], ["y"], axis=0),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])]
    inputs.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, [3, None, 4]))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, None, 4])]
    zero = numpy_helper.from_array(np.array([0]), "zero")
    graph = helper.make_graph(nodes, "g", inputs, outputs, [state, zero])
    path = tmp_path / "n.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    subject = read(path)
    assert subject.inputs[1].shape == (3, "b", 4)
    assert [dim.name for dim in subject.dynamic] == ["b", "x_1"]
    assert "'b' and 'state_1' must have one size, and vary together" in subject.notes
