"""The command says where, writes the part, and fails where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from attn_export import bundle
from attn_export.errors import GateError, LoadError, UnknownNameError
from attn_export.export.mutants import mutations
from attn_export.export.origin import Origin, recall, record
from attn_export.tools.diff_command import diff
from tests.export.models import PORTS, cases, rich


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
            "varying": [],
            "tolerance": {"k": 4.0},
            "origins": {"softmax": ["head.attend", "Softmax", "net.py", 7, "softmax(x)"]},
        },
    )
    return target


def test_a_faulty_graph_parts_from_the_clean_one(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = made.parent / "part"
    with pytest.raises(GateError, match="part at 'n_softmax'"):
        diff(made, str(made.parent / "clean.onnx"), output, as_json=False)
    text = capsys.readouterr().out
    assert "they part at Softmax 'n_softmax'" in text
    assert "head.attend (Softmax), net.py:7" in text
    assert {p.name for p in output.iterdir()} == {"part.onnx", "inputs.npz", "repro.py"}


def test_the_runtime_is_right_about_the_faulty_graph(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It computes what the graph says: that the graph is wrong, only another graph can tell."""
    diff(made, "onnxruntime", None, as_json=False)
    assert "part nowhere: 2 cases" in capsys.readouterr().out
    diff(made, str(made), None, as_json=True)
    assert json.loads(capsys.readouterr().out)["parting"] is None


def test_json_names_the_same_node(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GateError):
        diff(made, str(made.parent / "clean.onnx"), None, as_json=True)
    row = json.loads(capsys.readouterr().out)["parting"]
    assert (row["node"], row["op"], row["origin"]["line"]) == ("n_softmax", "Softmax", 7)


def test_what_is_neither_backend_nor_graph_is_refused(made: Path) -> None:
    with pytest.raises(UnknownNameError, match="onnxruntme"):
        diff(made, "onnxruntme", None, as_json=False)
    with pytest.raises(LoadError, match="cannot be read"):
        diff(made, "nowhere.onnx", None, as_json=False)


def test_origins_survive_a_manifest() -> None:
    known = {"erf": Origin("act", "GELU", "f.py", 3, "gelu(x)")}
    rows = json.loads(json.dumps(record(rich(), known)))
    assert recall(rows)["erf"] == known["erf"]
    assert recall(rows)["scaled"] == known["erf"]
