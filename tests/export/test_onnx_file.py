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
from attn_export.export.reference import cases
from attn_export.export.sources.onnx_file import read
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
    assert {case.inputs["image"].shape[0] for case in made} == {1, 2, 3, 4}
    model = onnx.load(tmp_path / "net.onnx")
    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()).double() for t in model.graph.initializer}
    for case in made:
        x = torch.from_numpy(case.inputs["image"]).double()
        y = torch.conv2d(x, tensors["w3"], tensors["b3"], padding=1) + torch.conv2d(x, tensors["w1"])
        y = torch.nn.functional.batch_norm(y, tensors["m"], tensors["v"], tensors["g"], tensors["b"])
        np.testing.assert_allclose(case.reference["logits"], y.numpy(), rtol=1e-12, atol=1e-12)
        assert 0 < case.float32_error["logits"] < 1e-5 * np.linalg.norm(case.reference["logits"])


def test_the_whole_job_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("net.onnx"))
    done = run("net.onnx", "--fuse", "--no-bench", "-q", "-o", "out")
    assert done.code == 0, done.err
    whole = bundle.read(Path("out"))
    assert whole.manifest["operators"] == {"Conv": 1}
    assert whole.manifest["opset"] == 13
    assert whole.inputs[0].shape == ("N", 3, 8, 8)
    assert "net.onnx sha256" in whole.manifest["subject"]["weights"]


def test_open_sizes_must_be_given(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", ("N", 3, "H", "W"))
    with pytest.raises(UsageError, match=r"leaves 'H' of 'image' open; say --input image:1x3x224x224"):
        read(path)
    subject = read(path, ["2x3x8x10"])
    assert subject.sizes == {"b": 2, "H": 8, "W": 10}
    assert export_subject(subject).contract.inputs[0].shape == ("N", 3, "H", "W")


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
