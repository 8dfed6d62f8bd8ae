"""What converters said of single nodes: files are whole, a form is what decides, and rules say what stands there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.errors import GateError
from attn_export.export.lint import RULES
from attn_export.export.lint._form import Form, Forms
from attn_export.export.lint._probed import FOLDER, LEVELS, TAKEN, Probed
from attn_export.pipeline import lint
from attn_export.tools.commands import graphs
from benchmarks.probes import answer, compare, drawn, torch_node
from benchmarks.probes.__main__ import PAGE, TARGETS, known, rendered
from benchmarks.probes.probe import amid, cut, inside
from benchmarks.targets.row import Row

FILES = sorted(FOLDER.glob("*.json"))


def graph(*nodes: onnx.NodeProto, x: tuple[int | str, ...] = (1, 8, 16, 16), opset: int = 18, **constants: np.ndarray):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def op_(op: str, inputs: str, output: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), name=output.split()[0], **attributes)


def forms(*nodes: onnx.NodeProto, **more) -> list[str]:
    return [str(form) for _, form in Forms(graph(*nodes, **more))]


def test_every_target_has_answers_and_every_file_a_target() -> None:
    targets = {name.replace("-", "_") for name in TARGETS}
    assert {file.stem for file in FILES} == targets & set(RULES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_whole(file: Path) -> None:
    probed = Probed.read(file)
    assert probed.target.replace("-", "_") == file.stem
    assert probed.tools
    assert all(any(letter.isdigit() for letter in version) for version in probed.tools.values())
    assert len(probed.answers) >= 150
    for text, (kind, reason) in probed.answers.items():
        form = Form.of(text)
        assert str(form) == text
        assert dict(form.features)["v"].isdigit()
        assert (kind == TAKEN) is not bool(reason), text
        assert "/tmp" not in reason, text
    kinds = {kind for kind, _ in probed.answers.values()}
    assert TAKEN in kinds
    assert kinds <= {TAKEN, *LEVELS}


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    probed = Probed("t", {"t": "T 1"}, "m", "2026-01-01", {"Relu v=14 x=4": (TAKEN, ""), "Abs v=13 x=4": ("cpu", "r")})
    probed.write(tmp_path / "t.json")
    assert Probed.read(tmp_path / "t.json") == probed
    assert list(probed.with_answers({"Abs v=13 x=4": (TAKEN, "")}, "2026-01-02").answers.values()) == [(TAKEN, "")] * 2


@pytest.mark.parametrize("planted", ["twice", "kind", "field"])
def test_a_planted_wrong_row_is_refused(planted: str, tmp_path: Path) -> None:
    data = json.loads((FOLDER / "ncnn.json").read_text())
    if planted == "twice":
        data["wrong"]["it says so"] = [data[TAKEN][0]]
    elif planted == "kind":
        data["perhaps"] = {"it says so": ["Relu v=14 x=9"]}
    else:
        del data["tools"]
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="expected answers, each form once"):
        Probed.read(tmp_path / "bad.json")


@pytest.mark.parametrize("kind", ["perhaps", "taken", "wrong"])
def test_an_answer_has_a_reason_unless_it_is_taken(kind: str) -> None:
    with pytest.raises(ValueError, match="with a reason unless taken"):
        answer.Answer(kind, "a reason" if kind == "taken" else "")


#: Two nodes that differ in what a form is about, or that are of one form.
OTHER = {
    "rank": ([op_("Relu", "x")], {"x": (1, 8, 16)}, [op_("Relu", "x")], {}),
    "dilation": ([op_("Conv", "x w", dilations=[2, 2])], {}, [op_("Conv", "x w")], {}),
    "depthwise": ([op_("Conv", "x v", group=8)], {}, [op_("Conv", "x w")], {}),
    "a computed weight": ([op_("Conv", "x c")], {}, [op_("Conv", "x w")], {}),
    "axes": ([op_("Softmax", "x", axis=1)], {}, [op_("Softmax", "x", axis=3)], {}),
    "operand or attribute": (
        [op_("ReduceMax", "x", axes=[1])],
        {"opset": 17},
        [op_("ReduceMax", "x a")],
        {"opset": 18},
    ),
    "how it is spread": ([op_("Add", "x s")], {}, [op_("Add", "x t")], {}),
    "a mode": ([op_("Pad", "x p", mode="reflect")], {}, [op_("Pad", "x p")], {}),
    "a GELU": (
        [op_("Erf", "x", "e"), op_("Add", "e one", "a"), op_("Mul", "a x")],
        {},
        [op_("Erf", "x", "e"), op_("Add", "e two", "a"), op_("Mul", "a x")],
        {},
    ),
}
ONE = {
    "sizes": ([op_("Relu", "x")], {"x": (1, 3, 5, 7)}, [op_("Relu", "x")], {}),
    "an open size": ([op_("Relu", "x")], {"x": ("b", 3, "h", "w")}, [op_("Relu", "x")], {}),
    "a negative axis": ([op_("Softmax", "x", axis=-1)], {}, [op_("Softmax", "x", axis=3)], {}),
    "a default that is written out": ([op_("Softmax", "x", axis=-1)], {}, [op_("Softmax", "x")], {}),
    "an opset that changed nothing": ([op_("Relu", "x")], {"opset": 17}, [op_("Relu", "x")], {"opset": 18}),
}
CONSTANTS = {
    "w": np.ones((8, 8, 3, 3), np.float32),
    "v": np.ones((8, 1, 3, 3), np.float32),
    "a": np.array([1]),
    "s": np.ones((1, 8, 1, 1), np.float32),
    "t": np.ones((16,), np.float32),
    "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "one": np.float32(1),
    "two": np.float32(2),
}


def _first(nodes, more) -> str:
    used = {name for node in nodes for name in node.input}
    made = [op_("Identity", "w", "c0"), op_("Mul", "c0 z", "c"), *nodes] if "c" in used else nodes
    constants = {name: value for name, value in CONSTANTS.items() if name in used | {"w"}}
    if "c" in used:
        made = [op_("ReduceMean", "x", "m", keepdims=0), op_("Mul", "w m", "c"), *nodes]
    return next(text for text in forms(*made, **more, **constants) if text.split()[0] == nodes[0].op_type)


@pytest.mark.parametrize("name", OTHER)
def test_what_decides_is_part_of_a_form(name: str) -> None:
    one, more, other, less = OTHER[name]
    assert _first(one, more) != _first(other, less)


@pytest.mark.parametrize("name", ONE)
def test_what_does_not_decide_is_no_part_of_it(name: str) -> None:
    one, more, other, less = ONE[name]
    assert _first(one, more) == _first(other, less)


def test_what_follows_from_sizes_is_folded_and_no_node() -> None:
    nodes = [
        op_("Shape", "x", "s"),
        op_("Gather", "s zero", "b"),
        op_("Unsqueeze", "b zeros", "u"),
        op_("Concat", "u rest", "t", axis=0),
        op_("Reshape", "x t"),
    ]
    constants = {"zero": np.array(0), "zeros": np.array([0]), "rest": np.array([-1])}
    assert forms(*nodes, x=("b", 8, "h", "w"), **constants) == ["Reshape v=14 x=4 to=2"]


def test_a_probe_means_what_its_node_means_and_has_its_form() -> None:
    model = graph(op_("Relu", "x", "r"), op_("Softmax", "r", axis=3))
    x = np.random.default_rng(0).standard_normal((1, 8, 16, 16)).astype(np.float32)
    relu, softmax = cut(model, {"x": x}, "g", set())
    assert (relu.forms, softmax.forms) == (("Relu v=14 x=4",), ("Softmax v=13 x=4 axis=3",))
    assert np.allclose(relu.case.reference["r"], np.maximum(relu.case.inputs["x"], 0))
    assert np.allclose(softmax.case.reference["y"].sum(axis=3), 1)
    assert not list(cut(model, {"x": x}, "g", {relu.forms[0], softmax.forms[0]}))
    assert inside(relu) is None, "every runtime takes such ports"


@pytest.mark.parametrize(
    "node", [drawn.Node("Relu", (drawn.RANKS[4],)), drawn.Node("ArgMax", (drawn.IMAGE,), {"axis": 1})]
)
def test_a_node_with_odd_ports_is_tried_between_others(node: drawn.Node) -> None:
    between = inside(drawn.made(node))
    assert between is not None
    assert [one.op_type for one in between.exported.model.graph.node if one.op_type not in ("Cast", "Reshape")] == [
        node.op
    ]
    onnx.checker.check_model(between.exported.model, full_check=True)
    for port in (*between.exported.contract.inputs, *between.exported.contract.outputs):
        assert port.dtype == "float32"
        assert len(port.shape) <= 4


def test_a_node_is_tried_between_activations_too() -> None:
    probe = drawn.made(drawn.Node("Reshape", (drawn.TOKENS, np.array([1, 192]))))
    between = amid(probe)
    assert between is not None
    assert [one.op_type for one in between.exported.model.graph.node] == ["Relu", "Reshape", "Relu"]
    assert between.forms == probe.forms
    (x,), (y,) = between.case.inputs.values(), between.case.reference.values()
    assert np.array_equal(x.reshape(1, 192), y)
    assert amid(drawn.made(drawn.Node("ArgMax", (drawn.IMAGE,), {"axis": 1}))) is None


def test_every_drawn_node_is_written_in_pytorch_as_it_is_meant_or_not_at_all() -> None:
    """A program that means something else is none: it would be blamed on the converter."""
    for node in list(drawn.nodes())[::25]:
        probe = drawn.made(node)
        try:
            program = torch_node.program(probe)
        except torch_node.NoWordError:
            continue
        for got, want in zip(program.module(*program.example), probe.case.reference.values(), strict=True):
            assert np.allclose(got.numpy(), want, rtol=1e-3, atol=1e-4), node


#: What was seen by hand, in other runs than those that wrote the files.
SEEN = {
    "openvino": ("Relu v=14 x=4", TAKEN),
    "litert": ("Relu v=14 x=4", TAKEN),
    "ncnn": ("InstanceNormalization v=6 x=3,c,c", "refused"),
    "qnn": ("Relu v=14 x=4", TAKEN),
    "rknn": ("Relu v=14 x=4", TAKEN),
}


@pytest.mark.parametrize("name", SEEN)
def test_the_answers_are_those_that_were_seen(name: str) -> None:
    form, kind = SEEN[name]
    assert Probed.read(FOLDER / f"{name}.json").answers[form][0] == kind


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A target that knows three forms, one of each answer."""
    from attn_export.export.lint import _probed

    Probed(
        "planted",
        {"compiler": "Planted 1.0"},
        "m",
        "2026-01-01",
        {
            "Relu v=14 x=4": (TAKEN, ""),
            "Relu v=14 x=3": ("refused", "three is too few"),
            "Softmax v=13 x=4 axis=1": ("wrong", "10 dB"),
            "Softmax v=13 x=4 axis=3": (TAKEN, ""),
            "Abs v=13 x=4": ("cpu", "it stays there"),
        },
    ).write(tmp_path / "planted.json")
    monkeypatch.setattr(_probed, "FOLDER", tmp_path)
    monkeypatch.setattr(lint, "RULES", {"planted": _probed.rules("planted")})
    return "planted"


def found(target: str, *nodes: onnx.NodeProto, **more) -> list[tuple[str, str, str]]:
    return [(one.level, one.reason, one.remedy) for one in lint.by_rules(graph(*nodes, **more), target)]


def test_rules_say_what_was_said_and_the_way_out(planted: str) -> None:
    assert found(planted, op_("Relu", "x")) == []
    ((level, reason, remedy),) = found(planted, op_("Relu", "x"), x=(1, 8, 16))
    assert (level, reason) == ("refused", "three is too few (form: Relu v=14 x=3)")
    assert remedy == "taken with x 4 in place of 3"
    ((level, reason, remedy),) = found(planted, op_("Softmax", "x", axis=1))
    assert (level, remedy) == ("wrong", "taken with axis 3 in place of 1")
    ((level, reason, remedy),) = found(planted, op_("Abs", "x"))
    assert (level, remedy) == ("split", "no form of it was taken: write it in other operators")


def test_what_was_not_tried_is_unknown_and_no_more(planted: str) -> None:
    ((level, reason, remedy),) = found(planted, op_("Softmax", "x", axis=2))
    assert (level, remedy) == ("unknown", "")
    assert "this form was not tried; of 2 others of the operator 1 are taken" in reason
    ((level, reason, _),) = found(planted, op_("Tanh", "x"))
    assert (level, "no form of this operator was tried" in reason) == ("unknown", True)


@pytest.mark.parametrize(("axis", "says"), [(1, "will take, and get wrong,"), (3, None)])
def test_what_is_wrong_fails_the_command(axis: int, says: str | None, planted: str, tmp_path: Path) -> None:
    onnx.save(graph(op_("Softmax", "x", axis=axis)), tmp_path / "m.onnx")
    if says is None:
        graphs.lint(tmp_path / "m.onnx", planted, as_json=True)
    else:
        with pytest.raises(GateError, match=says):
            graphs.lint(tmp_path / "m.onnx", planted, as_json=True)


@pytest.mark.parametrize(("opset", "level"), [(19, None), (20, "refused")])
def test_a_file_of_a_later_opset_is_refused_as_a_whole(opset: int, level: str | None) -> None:
    rules = [one for one in lint.by_rules(graph(op_("Relu", "x"), opset=opset), "rknn") if "opset" in one.rule]
    assert [one.level for one in rules] == ([level] if level else [])


def row(**more: object) -> Row:
    return Row("qnn", "se", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "came"),
    [
        (row(), None),
        (row(converted=False, reason="no"), "refused"),
        (row(converted=True, ran=False, reason="broke"), "refused"),
        (row(converted=True, ran=True, reason="20 dB", snr_db=20.0), "wrong"),
        (row(converted=True, ran=True, snr_db=50.0, share_on_accelerator=0.9), "left"),
        (row(converted=True, ran=True, snr_db=50.0, share_on_accelerator=1.0), "taken"),
    ],
)
def test_a_row_is_told_in_the_words_of_the_rules(one: Row, came: str | None) -> None:
    assert compare.happened(one) == came


def test_the_page_is_what_the_data_give() -> None:
    assert PAGE.read_text(encoding="utf-8") == rendered()
    assert all(f"`{name}`" in rendered() for name in known())
