"""Qualcomm's compiler: what it builds is for the chip that stands in the binary, and what it refuses is said."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from attn_export import bundle
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import CompileOptions
from attn_export.deploy_tests.backends.qnn import chips
from attn_export.deploy_tests.backends.qnn.backend import QNN, SETTINGS
from attn_export.deploy_tests.refusal import RefusedError
from attn_export.errors import BackendError, BackendMissingError
from attn_export.tools.commands import device
from attn_export.types import ShapeRange
from tests import edge
from tests.deploy_tests.tensorrt import graphs
from tests.deploy_tests.test_conformance import write
from tests.pipeline import schema

compiled = pytest.mark.edge


@pytest.fixture
def qnn() -> QNN:
    """The compiler, where it is installed."""
    edge.needs("onnxruntime_qnn")
    return QNN()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return graphs.branches(tmp_path / "branches.onnx", fused=False)


def feeds(count: int = 4) -> tuple[dict[str, np.ndarray], ...]:
    draw = np.random.default_rng(0)
    return tuple({"x": draw.standard_normal((1, 16, 32, 32)).astype(np.float32)} for _ in range(count))


@compiled
@pytest.mark.parametrize("chip", chips.CHIPS)
def test_the_chip_is_read_from_the_binary(qnn: QNN, model: Path, chip: str) -> None:
    shown = qnn.compile_only(model, CompileOptions(chip))
    assert shown.chip == chip.upper()
    assert shown.read_back.startswith(f"soc_type={chip.upper()};arch=")
    assert (shown.precision, shown.placement.cpu, shown.placement.refusal) == ("float16", (), "")
    assert "all " in shown.summary()
    assert shown.summary().endswith("on the accelerator, not run")
    assert shown.sizes == {"x": (1, 16, 32, 32)}


@compiled
def test_a_binary_for_another_chip_proves_nothing(qnn: QNN, model: Path) -> None:
    with pytest.raises(BackendError, match="expected a binary for SM8650, got one that says soc_type=SM8550;arch=73"):
        qnn.build(model, "sm8650", chips.CHIPS["sm8550"], CompileOptions())


@compiled
def test_a_number_that_no_chip_has_is_refused(qnn: QNN, model: Path) -> None:
    with pytest.raises(RefusedError, match="Qualcomm's QNN takes no node of") as caught:
        qnn.build(model, "sm9999", 9999, CompileOptions())
    assert caught.value.exit_code == 3
    with pytest.raises(
        RefusedError,
        match=r"does not build .*branches\.onnx, whole or in parts: FP16 precision mode .* soc_model is not",
    ):
        qnn.build(model, "sm0", 0, CompileOptions())


@compiled
def test_an_architecture_that_is_asked_for_is_not_believed(
    qnn: QNN, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "htp_arch", "99")
    assert qnn.compile_only(model, CompileOptions("sm8550")).read_back == "soc_type=SM8550;arch=73"


@compiled
def test_int8_takes_its_ranges_from_the_cases_and_is_simulated(qnn: QNN, model: Path) -> None:
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    right = [session.run(None, dict(one))[0] for one in feeds()]
    for precision, least in (("float16", 50), ("int8", 20)):
        shown = qnn.compile_only(model, CompileOptions("", {}, precision, feeds(), feeds()))
        assert (shown.precision, shown.placement.cpu) == (precision, ())
        assert len(shown.simulated) == 4
        for got, wanted in zip(shown.simulated, right, strict=True):
            error = float(np.linalg.norm(got["y"] - wanted) / np.linalg.norm(wanted))
            assert 0 < -20 * np.log10(error) < 100
            assert -20 * np.log10(error) > least
    with pytest.raises(RefusedError, match="there are no inputs of the fixed sizes"):
        qnn.compile_only(model, CompileOptions(precision="int8"))


def one_strange(path: Path) -> Path:
    """A node that the HTP has not, between two that it has."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="before", pads=[1, 1, 1, 1]),
        helper.make_node("Sinh", ["c"], ["s"], name="strange"),
        helper.make_node("Conv", ["s", "w"], ["y"], name="after", pads=[1, 1, 1, 1]),
    ]
    shape = [1, 16, 8, 8]
    ports = [graphs.X("x", TensorProto.FLOAT, shape)], [graphs.X("y", TensorProto.FLOAT, shape)]
    return graphs.save(path, nodes, *ports, {"w": graphs._draw(16, 16, 3, 3)})


@compiled
def test_what_stays_on_the_cpu_is_listed_by_node(qnn: QNN, tmp_path: Path) -> None:
    shown = qnn.compile_only(one_strange(tmp_path / "strange.onnx"), CompileOptions())
    assert [(node.op, node.node) for node in shown.placement.cpu] == [("Sinh", "strange")]
    assert shown.placement.accelerator >= 2
    assert "fallback to CPU EP has been explicitly disabled" in shown.placement.refusal
    assert "1 on the CPU, not run" in shown.summary()
    assert "on the CPU: Sinh 'strange'" in shown.details()


@compiled
def test_an_open_size_becomes_the_usual_one_or_is_refused(qnn: QNN, tmp_path: Path) -> None:
    model = graphs.convolution(tmp_path / "c.onnx", "b")
    with pytest.raises(RefusedError, match=r"dimension 0 of input 'x' \(b\) is open.*give --shapes"):
        qnn.compile_only(model, CompileOptions())
    shown = qnn.compile_only(model, CompileOptions(shapes={"x": ShapeRange((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}))
    assert shown.sizes["x"][0] == 2


@compiled
def test_a_file_that_is_no_model_is_refused_and_no_crash_of_ours(qnn: QNN, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(BackendError, match=r"ended with code 1; its last words: .*Protobuf parsing failed"):
        qnn.compile_only(tmp_path / "m.onnx", CompileOptions())


@compiled
def test_the_bundles_report_keeps_claim_sizes_and_what_was_simulated(
    qnn: QNN, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "twice")
    for precision in ("", "int8", ""):
        asked = device.CompileRequest(path=folder, target="sm8750", precision=precision, simulate=True)
        device.compile_(asked, as_json=False)
    said = capsys.readouterr().out
    assert "for SM8750 in float16" in said
    assert "simulated: " in said
    report = json.loads((folder / bundle.REPORT).read_text())
    assert schema.faults(report) == []
    assert [item["precision"] for item in report["compiled"]] == ["int8", "float16"]  # the second float16 replaces
    last = report["compiled"][-1]
    assert (last["level"], last["chip"], last["sizes"], last["executed"]) == ("E1", "SM8750", {"x": [1, 3]}, False)
    assert last["simulated"]["label"] == "simulated"
    assert last["simulated"]["snr_db"] > 50
    assert report["runs"] == []
    assert "simulated: " in (folder / bundle.PAGE).read_text()
    bundle.read(folder)


def test_without_the_package_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, found = write(tmp_path / "twice"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime_qnn" else found(name))
    with pytest.raises(BackendMissingError, match=r"pip install 'attn-export\[qnn\]'") as caught:
        device.compile_(device.CompileRequest(path=folder, target="qnn:sm8650"), as_json=True)
    assert caught.value.exit_code == 4
    assert not (folder / bundle.REPORT).exists()
    assert backends.missing_compiler("qnn")


def test_the_chips_are_read_from_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "context.onnx"
    file.write_bytes(b"\x00a;soc_type=SM8650;arch=75;b" * 2 + b"\xff soc_type=;arch=1")
    assert chips.read_back(file) == (("SM8650", "75"),)
