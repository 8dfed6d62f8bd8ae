"""ONNX files from outside: what cannot be is refused in one sentence, what is only written otherwise is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from attn_export.errors import SubjectError
from attn_export.export.lint import RULES
from attn_export.export.onnx.read import read_model
from attn_export.pipeline import lint
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from tests.tools.run import run

SHAPE = [1, 4, 8, 8]
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal(SHAPE).astype(np.float32)
W = RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32)
Change = Callable[[ModelProto], None]


def value(name: str, shape: list[Any] | None = None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, SHAPE if shape is None else shape)


def model(*nodes: NodeProto, constants: dict[str, Any] | None = None, **more: Any) -> ModelProto:
    """``y`` from ``x``: by default a convolution."""
    given = {"w": W} if constants is None else constants
    graph = helper.make_graph(
        nodes or [helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1] * 4)],
        "g",
        [value("x")],
        [value("y")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in given.items()],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("z", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8, **more)


def write(made: ModelProto, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def at(name: str, number: Any) -> Change:
    def change(made: ModelProto) -> None:
        node = made.graph.node[0]
        kept = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, number)])

    return change


def first(field: str, number: Any) -> Change:
    """Set a field of the constant."""

    def change(made: ModelProto) -> None:
        tensor = made.graph.initializer[0]
        if field == "dims":
            del tensor.dims[:]
            tensor.dims.extend(number)
        else:
            setattr(tensor, field, number)

    return change


def nodes(*made: NodeProto) -> Change:
    def change(whole: ModelProto) -> None:
        del whole.graph.node[:]
        whole.graph.node.extend(made)

    return change


def doubling(depth: int) -> Change:
    """Functions that call each other twice: 2^depth nodes."""

    def change(whole: ModelProto) -> None:
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("z", 1)]
        for level in range(depth):
            inner = ("Relu", "") if level == 0 else (f"F{level - 1}", "z")
            twice = [helper.make_node(inner[0], [a], [b], domain=inner[1]) for a, b in (("a", "m"), ("m", "b"))]
            whole.functions.append(helper.make_function("z", f"F{level}", ["a"], ["b"], twice, imports))
        nodes(helper.make_node(f"F{depth - 1}", ["x"], ["y"], domain="z"))(whole)

    return change


def renamed(made: ModelProto) -> None:
    made.graph.node[0].name = "n" * 20_000


def huge(made: ModelProto) -> None:
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40


def strange(made: ModelProto) -> None:
    made.graph.output[0].type.tensor_type.elem_type = 77


def whole_numbers(made: ModelProto) -> None:
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


def older(version: int) -> Change:
    def change(made: ModelProto) -> None:
        made.opset_import[0].version = version

    return change


def newer_format(made: ModelProto) -> None:
    made.ir_version = 99


NORM = helper.make_node("BatchNormalization", ["x", "c", "c", "c", "d"], ["y"])
REFUSED: dict[str, tuple[Change, str]] = {
    "group of zero": (at("group", 0), "group is 0; expected at least 1"),
    "group that does not divide": (at("group", 3), "group is 3, which does not divide its 4 outputs"),
    "other channels": (at("group", 2), "its input has 4 channels, and its kernel takes 8"),
    "negative stride": (at("strides", [1, -1]), "strides"),
    "no dilation": (at("dilations", [0, 1]), "dilations"),
    "negative pads": (at("pads", [-1] * 4), "pads"),
    "three strides": (at("strides", [1, 1, 1]), "strides"),
    "another kernel": (at("kernel_shape", [5, 5]), "kernel_shape"),
    "an attribute of another type": (at("group", 1.5), "group"),
    "a permutation twice": (nodes(helper.make_node("Transpose", ["x"], ["y"], perm=[0, 0, 2, 3])), "perm"),
    "an axis too far": (nodes(helper.make_node("Concat", ["x", "x"], ["y"], axis=9)), "axis"),
    "an axis beyond any": (
        nodes(helper.make_node("LayerNormalization", ["x", "c"], ["y"], axis=2**63 - 1)),
        "axis is 9223372036854775807; expected -64 to 63",
    ),
    "a negative number of axes": (
        nodes(helper.make_node("GatherND", ["x", "i"], ["y"], batch_dims=-2)),
        "batch_dims is -2; expected 0 to 63",
    ),
    "a block of nothing": (nodes(helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=0)), "locksize"),
    "norms of two lengths": (nodes(NORM), "BatchNormalization"),
    "a cycle": (
        nodes(helper.make_node("Add", ["x", "q"], ["p"]), helper.make_node("Relu", ["p"], ["q"])),
        "without cycles",
    ),
    "a name made twice": (
        nodes(helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])),
        "single static assignment",
    ),
    "a name never made": (nodes(helper.make_node("Relu", ["q"], ["y"])), "q"),
    "no output": (nodes(helper.make_node("Relu", ["x"], [])), "output size 0"),
    "too few values": (first("raw_data", b"123"), "holds 3"),
    "too many values": (first("raw_data", W.tobytes() + b"1234"), "holds 580"),
    "a negative size": (first("dims", [-4, 4, 3, 3]), "none negative"),
    "sizes beyond any machine": (first("dims", [1 << 40, 1 << 40]), "no machine has"),
    "a type of the future": (first("data_type", 99), "element type 99"),
    "an output of a type of the future": (strange, "element type 77"),
    "an output of another type": (whole_numbers, "type"),
    "an input that cannot be drawn": (huge, "2³¹"),
    "a name without end": (renamed, "names of at most 10000 letters"),
    "opset 0": (older(0), "expected opset 1 to"),
    "opset 1000": (older(1000), "expected opset 1 to"),
    "a format of the future": (newer_format, "IR version"),
    "a bomb of functions": (doubling(40), "more than 2000000 nodes"),
    "functions too deep": (doubling(300), "more than 200 deep"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    change, why = REFUSED[name]
    more = {"c": np.ones(4, np.float32), "d": np.ones(3, np.float32), "i": np.zeros((1, 1), np.int64)}
    made = model(constants={"w": W, **more})
    change(made)
    path = write(made, tmp_path / "m.onnx")
    with pytest.raises(SubjectError) as refused:
        read_model(path)
    assert why in str(refused.value)
    assert str(refused.value).startswith(f"{path} is not a valid ONNX file: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("command", ["fuse", "lint", "diff", "main"])
def test_every_command_reads_through_the_one_reader(command: str, tmp_path: Path) -> None:
    made = model()
    at("group", 0)(made)
    path = write(made, tmp_path / "m.onnx")
    words = {
        "fuse": ["fuse", path, "-o", tmp_path / "out.onnx"],
        "lint": ["lint", path],
        "diff": ["diff", path],
        "main": [path, "-o", tmp_path / "out"],
    }
    done = run(*words[command])
    assert (done.code, "group is 0" in done.err) == (3, True), done
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x08", b"\xff" * 40], ids=["empty", "text", "bare", "noise"])
def test_what_is_no_model_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(SubjectError, match="is not an ONNX file: expected an ONNX file"):
        read_model(tmp_path / "m.onnx")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    content = model().SerializeToString().replace(b"conv", b"co\xffv")
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(SubjectError, match="texts in UTF-8"):
        read_model(tmp_path / "m.onnx")


def test_graphs_in_graphs_without_end_are_refused(tmp_path: Path) -> None:
    inner = helper.make_node("Identity", ["x"], ["y"]).SerializeToString()
    for _ in range(60):  # by hand, since no writer goes so deep: node.attribute.g.node
        for field in (1, 6, 5):
            inner = bytes([field << 3 | 2]) + onnx_length(len(inner)) + inner
    made = model()
    content = made.SerializeToString()
    node = bytes([1 << 3 | 2]) + onnx_length(len(inner)) + inner
    graph = made.graph.SerializeToString() + node
    content = content.replace(made.graph.SerializeToString(), b"")
    bare = ModelProto(ir_version=8, opset_import=made.opset_import).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(bare + bytes([7 << 3 | 2]) + onnx_length(len(graph)) + graph)
    with pytest.raises(SubjectError, match="cannot be parsed"):
        read_model(tmp_path / "m.onnx")


def onnx_length(number: int) -> bytes:
    """A length as protobuf writes it."""
    found = []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
def test_what_is_no_regular_file_is_never_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    with pytest.raises(SubjectError, match="there is no file" if kind == "nothing" else f"got a {kind}"):
        read_model(path)


class TestOutside:
    """Weights that lie beside the file."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "w.bin").write_bytes(b"\0" * 8 + W.tobytes())
        (tmp_path / "far.bin").write_bytes(b"\0" * 8 + W.tobytes())
        return tmp_path / "in"

    def said(self, place: Path, **entries: object) -> Path:
        made = model()
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, word in {"location": "w.bin", "offset": 8, "length": W.nbytes, **entries}.items():
            if word is not None:
                tensor.external_data.add(key=key, value=str(word))
        return write(made, place / "m.onnx")

    def test_they_are_read_or_stay_where_they_are(self, place: Path) -> None:
        for length in (W.nbytes, None):
            read = read_model(self.said(place, length=length))
            assert np.array_equal(numpy_helper.to_array(read.graph.initializer[0]), W)

    def test_large_ones_stay_where_they_are(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("attn_export.export.onnx.external_data.SMALL", 100)
        read = read_model(self.said(place), weights=False)
        assert read.graph.initializer[0].data_location == TensorProto.EXTERNAL
        assert lint.by_rules(lint.load(place / "m.onnx"), "tensorrt") == []

    @pytest.mark.parametrize(
        ("entries", "why"),
        [
            ({"location": "../far.bin"}, "lies outside the folder"),
            ({"location": "/etc/passwd"}, "lies outside the folder"),
            ({"location": ""}, "lies outside the folder"),
            ({"location": "gone.bin"}, "which is not there"),
            ({"location": "."}, "got a folder"),
            ({"location": "pipe"}, "got a pipe"),
            ({"location": "link"}, "lies outside the folder"),
            ({"location": "near"}, "reached through a link"),
            ({"location": "hard"}, "a second name"),
            ({"offset": -8}, "expected a number of bytes as their offset"),
            ({"offset": "9" * 5000}, "expected a number of bytes as their offset"),
            ({"offset": 16}, "ends before them"),
            ({"length": 10**15}, "by their shape and type"),
            ({"length": 8}, "by their shape and type"),
        ],
    )
    def test_they_lie_in_the_folder_and_are_as_long_as_they_must(
        self, entries: dict[str, object], why: str, place: Path
    ) -> None:
        os.mkfifo(place / "pipe")
        (place / "link").symlink_to(place.parent / "far.bin")
        (place / "near").symlink_to("w.bin")
        if entries.get("location") == "hard":
            os.link(place / "w.bin", place / "hard")
        with pytest.raises(SubjectError, match="the weights of 'w'") as refused:
            read_model(self.said(place, **entries))
        assert why in str(refused.value)


class TestWrittenOtherwise:
    """What means the same is read."""

    def same(self, made: ModelProto, tmp_path: Path) -> ModelProto:
        read = read_model(write(made, tmp_path / "m.onnx"))
        wanted = OnnxEvaluator(model()).run({"x": X})["y"]
        assert np.array_equal(OnnxEvaluator(read).run({"x": X})["y"], wanted)
        return read

    def test_nodes_in_another_order(self, tmp_path: Path) -> None:
        last, middle = helper.make_node("Neg", ["n"], ["y"]), helper.make_node("Neg", ["c"], ["n"])
        made = model(last, middle, helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4))
        read = self.same(made, tmp_path)
        assert [node.op_type for node in read.graph.node] == ["Conv", "Neg", "Neg"]

    def test_constants_that_are_sparse(self, tmp_path: Path) -> None:
        made = model(constants={})
        values = numpy_helper.from_array(W.reshape(-1), "w")
        places = numpy_helper.from_array(np.arange(W.size), "")
        made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, list(W.shape)))
        self.same(made, tmp_path)
        made.graph.sparse_initializer[0].dims[0] = 1
        with pytest.raises(SubjectError, match="does not fit its own shape"):
            read_model(write(made, tmp_path / "m.onnx"))
        made.graph.sparse_initializer[0].dims[0] = 1 << 40
        with pytest.raises(SubjectError, match="at most 1 GB"):
            read_model(write(made, tmp_path / "m.onnx"))

    def test_of_constants_of_one_name_the_last_counts(self, tmp_path: Path) -> None:
        made = model()
        made.graph.initializer.insert(0, numpy_helper.from_array(W * 2, "w"))
        self.same(made, tmp_path)

    def test_a_negative_size_is_an_open_one(self, tmp_path: Path) -> None:
        made = model()
        made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
        read = self.same(made, tmp_path)
        assert not read.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")

    def test_ends_without_shape_or_type_and_an_old_format(self, tmp_path: Path) -> None:
        made = model()
        made.graph.input[0].type.tensor_type.ClearField("shape")
        made.graph.output[0].ClearField("type")
        made.ir_version = 3
        self.same(made, tmp_path)

    def test_operators_of_other_domains(self, tmp_path: Path) -> None:
        kinds = ("Resize", "Softmax", "GridSample", "Attention", "DequantizeLinear", "MaxPool", "Conv", "ReduceMean")
        bare = [
            helper.make_node(kind, [], [f"o{kind}"], domain="z") for kind in kinds
        ]  # no rule of the standard's holds
        read = read_model(write(model(*model().graph.node, *bare), tmp_path / "m.onnx"))
        for target in RULES:
            lint.by_rules(read, target)
