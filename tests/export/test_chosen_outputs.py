"""Which outputs a network gives: what is no tensor is left out and said, and ``--outputs`` chooses and names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from attn_export import bundle
from attn_export.errors import SubjectError, UsageError
from attn_export.export.chosen import choose
from attn_export.export.exporting import export_subject
from attn_export.export.in_memory import from_module
from attn_export.export.onnx.outputs_of import taken
from attn_export.export.outputs import evaluate
from attn_export.export.sources.onnx_file import read
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.tools import options
from tests.tools.run import run

X = torch.ones(1, 3, 4, 4)


@dataclasses.dataclass
class Found:
    """No container that the exporter knows."""

    scores: Tensor
    boxes: Tensor
    loss: Tensor | None = None
    count: int = 7
    how: str = "text"


class Net(nn.Module):
    def forward(self, x: Tensor) -> object:
        return Found(x + 1, x + 2)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> object:
        return x + 1, [x + 2, None]


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> object:
        return {"n": 3, "c": object()}


NO_TENSORS = "outputs that are left out, as they are no tensors: "
NOT_NAMED = "outputs that are left out, as --outputs does not name them: "


@pytest.mark.parametrize(
    ("module", "words", "names", "notes"),
    [
        (Net(), (), {"scores": 1, "boxes": 2}, [f"{NO_TENSORS}loss (None), count (int 7), how (str)"]),
        (Net(), ("b=boxes", "scores"), {"b": 2, "scores": 1}, [f"{NO_TENSORS}loss (None), count (int 7), how (str)"]),
        (Pair(), (), {"y0": 1, "y1": 2}, [f"{NO_TENSORS}1.1 (None)"]),
        (Pair(), ("last=1",), {"last": 2}, [f"{NO_TENSORS}1.1 (None)", f"{NOT_NAMED}y0"]),
        (nn.Identity(), (), {"y": 0}, []),
        (nn.Identity(), ("z=0",), {"z": 0}, []),
    ],
)
def test_what_is_given_and_what_is_left_out(
    module: nn.Module, words: tuple[str, ...], names: dict[str, int], notes: list[str]
) -> None:
    subject = from_module(module.eval(), (X,), outputs=words)
    given = evaluate(subject.module, subject.example())
    assert {
        name: round(float((value - subject.example()[subject.inputs[0].name]).mean())) for name, value in given.items()
    } == names
    assert list(given) == list(names)
    assert list(subject.notes) == notes
    assert not module._forward_hooks, "the caller's own is left as it is"


def test_the_graph_gives_what_was_chosen() -> None:
    exported = export_subject(from_module(Net().eval(), (X,), outputs=("b=boxes", "scores")))
    assert [port.name for port in exported.contract.outputs] == ["b", "scores"]


def test_a_forward_without_tensors_is_told_what_it_gives() -> None:
    with pytest.raises(SubjectError, match=r"got n \(int 3\), c \(object\)"):
        from_module(Nothing().eval(), (X,))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["boxs"], r"Net gives boxes, scores \(or by position, 0 to 1\); got 'boxs'"),
        (["new=2"], "got 'new=2'"),
        (["boxes", "b=0"], "names 'boxes' twice"),
        (["a=0", "a=1"], "names 'a' twice"),
        (["x=boxes"], "'x' is an input of Net"),
    ],
)
def test_a_choice_that_cannot_be_is_an_error(words: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        choose(words, ["boxes", "scores"], ["x"], "Net")


def test_the_option_is_read_word_by_word() -> None:
    assert options.outputs(None) == ()
    assert options.outputs("boxes, s=scores,2") == ("boxes", "s=scores", "2")
    for text in ("", "boxes,", "a=", "a b", "a=b=c"):
        with pytest.raises(UsageError, match="expected names such as boxes,scores"):
            options.outputs(text)


def two_heads(path: Path | None = None) -> onnx.ModelProto:
    """Two products, a constant and the input itself as outputs."""
    nodes = [helper.make_node("Mul", ["x", f"w_{k}"], [k], f"mul_{k}") for k in "pq"]
    values = {key: helper.make_tensor_value_info(key, TensorProto.FLOAT, (2, 3)) for key in ("x", "p", "q", "w_p")}
    weights = [numpy_helper.from_array(np.full((2, 3), n, np.float32), f"w_{k}") for n, k in ((2, "p"), (5, "q"))]
    graph = helper.make_graph(nodes, "g", [values["x"]], [values[k] for k in ("p", "q", "x", "w_p")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if path is not None:
        onnx.save(model, path)
    return model


@pytest.mark.parametrize(
    "names", [{"q": "q"}, {"second": "q", "first": "p"}, {"p": "q", "q": "p"}, {"same": "x", "w": "w_p"}, {"w_q": "p"}]
)
def test_a_file_gives_what_was_chosen(names: dict[str, str]) -> None:
    whole, x = two_heads(), np.arange(6, dtype=np.float32).reshape(2, 3)
    before = {"p": 2 * x, "q": 5 * x, "x": x, "w_p": np.full((2, 3), 2, np.float32)}
    made = taken(whole, names)
    onnx.checker.check_model(made, full_check=True)
    assert [value.name for value in made.graph.output] == list(names)
    given = OnnxEvaluator(made, np.float64).run({"x": x})
    for new, old in names.items():
        np.testing.assert_array_equal(given[new], before[old])
    assert len(made.graph.initializer) == len({"p", "q", "w_p"} & set(names.values())), (
        "what is left out has no weights"
    )
    assert whole == two_heads()


def test_a_bundle_remembers_the_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    two_heads(tmp_path / "net.onnx")
    assert read(Path("net.onnx"), outputs=("second=q",)).outputs == {"second": "q"}
    done = run("net.onnx", "--outputs", "second=q", "--no-bench", "--mutants", "none", "-o", "made")
    assert done.code == 0, done.err
    whole = bundle.read(tmp_path / "made")
    assert whole.manifest["subject"]["outputs"] == {"second": "q"}
    assert f"{NOT_NAMED}p, x, w_p" in whole.manifest["warnings"]
    assert run("verify", "made", "--fresh", "2").code == 0
    against = run("diff", "made", "net.onnx")
    assert against.code == 0, against.err
    assert f"net.onnx: {NOT_NAMED}p, x, w_p" in against.out
    assert run("diff", "net.onnx", "made", "--outputs", "second=q").code == 0
    assert run("net.onnx", "--outputs", "r").code == 2
