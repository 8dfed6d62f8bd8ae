"""The command says where, writes the part, and fails where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from attn_export import bundle
from attn_export.export.graph.origin import Origin, recall, record
from attn_export.export.mutants.catalogue import mutations
from tests.artifacts import onnx as onnx_artifact
from tests.export.models import PORTS, cases, rich
from tests.tools.run import run


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A bundle of the small graph, with its clean and a faulty graph beside it."""
    target = tmp_path / "b"
    target.mkdir()
    model, fault = rich(), next(m for m in mutations(rich()) if m.kind == "softmax over another axis")
    onnx.save(model, tmp_path / "clean.onnx")
    onnx.save(fault.of(model), target / bundle.MODEL)
    bundle.write_cases(target / bundle.CASES, tuple(cases(model)))
    port = {"name": "y", "dtype": "float32", "shape": list(PORTS[0].shape)}
    bundle.write_manifest(
        target,
        {
            "subject": {"name": "rich"},
            "inputs": [{**port, "name": "x"}],
            "outputs": [port],
            "dynamic_dims": [],
            "artifacts": [onnx_artifact()],
            "source_locations": {"softmax": ["head.attend", "Softmax", "net.py", 7, "softmax(x)"]},
        },
    )
    return target


def test_a_faulty_graph_parts_from_the_clean_one(made: Path) -> None:
    output = made.parent / "part"
    came = run("diff", made, made.parent / "clean.onnx", "-o", output)
    assert came.code == 1
    assert "diverge at 'n_softmax'" in came.err
    assert "first divergence at Softmax 'n_softmax'" in came.out
    assert "head.attend (Softmax), net.py:7" in came.out
    assert {p.name for p in output.iterdir()} == {"part.onnx", "inputs.npz", "repro.py"}


def test_the_runtime_is_right_about_the_faulty_graph(made: Path) -> None:
    """It computes what the graph says: that the graph is wrong, only another graph can tell."""
    came = run("diff", made, "onnxruntime")
    assert came.code == 0
    assert "No divergence between model and model@onnxruntime (2 cases)." in came.out
    assert run("diff", made, made, "--json").json["divergence"] is None


def test_json_names_the_same_node(made: Path) -> None:
    came = run("diff", made, made.parent / "clean.onnx", "--json")
    row = json.loads(came.out.splitlines()[0])["divergence"]
    assert (came.code, row["node"], row["op"], row["source_location"]["line"]) == (1, "n_softmax", "Softmax", 7)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["onnxruntme"], 2, "onnxruntime"),
        (["nowhere.onnx"], 3, "there is no file nowhere.onnx"),
        (["--between", "model"], 2, "expected two sides"),
        (["--between", "model,model"], 2, "two different sides"),
        (["--between", "original,model"], 2, "attn-export diff SUBJECT --between original,"),
        (["--between", "fused,model"], 2, "a bundle holds only its last stage"),
        (["--between", "model,modle"], 2, "modle"),
        (["--between", "model,model@tensorflow"], 2, "tensorflow"),
    ],
)
def test_what_is_no_side_is_refused_with_the_way_out(made: Path, words: list[str], code: int, said: str) -> None:
    came = run("diff", made, *words)
    assert (came.code, said in came.err) == (code, True), came.err


def test_origins_survive_a_manifest() -> None:
    known = {"erf": Origin("act", "GELU", "f.py", 3, "gelu(x)")}
    rows = json.loads(json.dumps(record(rich(), known)))
    assert recall(rows)["erf"] == known["erf"]
    assert recall(rows)["scaled"] == known["erf"]
