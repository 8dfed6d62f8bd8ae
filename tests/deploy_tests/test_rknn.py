"""Rockchip's compiler: for the chip that stands in the file, refused in a sentence, in an environment of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from attn_export import bundle
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import CompileOptions
from attn_export.deploy_tests.backends.rknn import environment
from attn_export.deploy_tests.backends.rknn.backend import CHIPS, RKNN
from attn_export.deploy_tests.backends.rknn.layers import Layer, layers, target
from attn_export.deploy_tests.refusal import RefusedError
from attn_export.errors import BackendError, BackendMissingError, UnknownNameError
from attn_export.process import children
from attn_export.tools.commands import device
from tests import edge
from tests.deploy_tests.tensorrt import graphs
from tests.deploy_tests.test_conformance import write
from tests.pipeline import schema

compiled = pytest.mark.edge


@pytest.fixture
def rknn() -> RKNN:
    """The compiler, where its environment was made: ``attn-export compile … --install``."""
    edge.require(RKNN().missing_compiler())
    return RKNN()


def feeds(count: int = 3) -> tuple[dict[str, np.ndarray], ...]:
    draw = np.random.default_rng(0)
    return tuple({"x": draw.standard_normal((1, 16, 32, 32)).astype(np.float32)} for _ in range(count))


@compiled
@pytest.mark.parametrize(("chip", "precision"), [("rk3588", "float16"), ("rk3576", "int8"), ("rv1106", "int8")])
def test_the_chip_is_read_from_the_file(rknn: RKNN, tmp_path: Path, chip: str, precision: str) -> None:
    model = graphs.branches(tmp_path / "m.onnx", fused=True)
    shown = rknn.compile_only(model, CompileOptions(chip, precision=precision, calibration=feeds()))
    assert (shown.chip, shown.precision) == (chip.upper(), precision)
    assert shown.read_back == f'"target_platform":["{chip}"]'
    assert shown.placement.accelerator >= 1
    assert shown.placement.cpu == ()


@compiled
def test_what_the_compiler_refuses_is_said(rknn: RKNN, tmp_path: Path) -> None:
    model = graphs.branches(tmp_path / "m.onnx", fused=True)
    with pytest.raises(RefusedError, match=r"rv1106\) not support do_quantization = False") as caught:
        rknn.compile_only(model, CompileOptions("rv1106"))
    assert caught.value.exit_code == 3
    with pytest.raises(RefusedError, match="Invalid target_platform 'rk9999'"):
        rknn.compile_only(model, CompileOptions("rk9999"))
    with pytest.raises(RefusedError, match="there are no inputs of the fixed sizes"):
        rknn.compile_only(model, CompileOptions(precision="int8"))
    with pytest.raises(RefusedError, match=r"dimension 0 of input 'x' \(b\) is open.*give --shapes"):
        rknn.compile_only(graphs.convolution(tmp_path / "c.onnx", "b"), CompileOptions())


@compiled
def test_the_simulators_numbers_stand_in_the_report_under_their_label(
    rknn: RKNN, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "twice")
    device.compile_(device.CompileRequest(path=folder, target="rk3588", simulate=True), as_json=False)
    assert "simulated: " in capsys.readouterr().out
    report = json.loads((folder / bundle.REPORT).read_text())
    assert schema.faults(report) == []
    (item,) = report["compiled"]
    assert (item["chip"], item["simulated"]["label"], item["executed"]) == ("RK3588", "simulated", False)
    assert item["simulated"]["snr_db"] > 40


@compiled
def test_a_build_that_takes_too_long_is_stopped(rknn: RKNN, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"did not build .* within 0\.5 s"):
        RKNN(limit=0.5).compile_only(graphs.branches(tmp_path / "m.onnx", fused=True), CompileOptions())


def test_without_its_environment_the_command_says_what_it_would_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(environment, "unsupported", lambda: None)
    folder = write(tmp_path / "twice")
    with pytest.raises(BackendMissingError, match=r"--install .*1\.5 GB in .*cache.*rknn-toolkit2==2\.5\.0") as caught:
        device.compile_(device.CompileRequest(path=folder, target="rk3588"), as_json=True)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "cache").exists()
    with pytest.raises(UnknownNameError) as unknown:
        device.compile_(device.CompileRequest(path=folder, target="rknn:rk9999"), as_json=True)
    assert unknown.value.exit_code == 2


def test_an_installation_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environment, "unsupported", lambda: None)
    real = children.start
    monkeypatch.setattr(children, "start", lambda module, *words, **rest: real("json.tool", "--no-such-option", **rest))
    with pytest.raises(BackendError, match=r"venv failed, and nothing was installed: .*no-such-option"):
        backends.install("rknn")
    assert list((tmp_path / "attn-export" / "environments").iterdir()) == []
    assert environment.python() is None


def test_half_an_environment_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (environment.folder() / "bin").mkdir(parents=True)
    (environment.folder() / "bin" / "python").write_text("")
    assert environment.python() is None
    (environment.folder() / environment.COMPLETE).write_text("")
    assert environment.python() == environment.folder() / "bin" / "python"


PRINTED = """\
D RKNN: [10:00:00.000]           Network Layer Information Table
D RKNN: [10:00:00.000] ----------------
D RKNN: [10:00:00.000] ID   OpType         DataType Target InputShape     OutputShape  Cycles  RW(KB) FullName
D RKNN: [10:00:00.000] ----------------
D RKNN: [10:00:00.000] 0    InputOperator  FLOAT16  CPU    \\              (1,3,8,8)    0/0/0   0      InputOperator:x
D RKNN: [10:00:00.000] 1    ConvRelu       FLOAT16  NPU    (1,3,8,8),(8)  (1,8,8,8)    9/9/9   4      Conv:node_conv
D RKNN: [10:00:00.000] 2    Conv           FLOAT16  NPU    (1,3,8,8)      (1,8,8,8)    9/9/9   4
D RKNN: [10:00:00.000] 3    Gather         INT64    CPU    (1,8,8,8),(1,8,8,8),(1) (1,8,8,8) 9/9/9 4  Gather:pick
D RKNN: [10:00:00.000] 4    OutputOperator FLOAT16  CPU    (1,8,8,8)      \\            0/0/0   3      OutputOperator:y
D RKNN: [10:00:00.000] ----------------
D RKNN: [10:00:00.000] 1 Conv x FLOAT16 CPU later table
"""


def test_the_table_of_layers_is_read() -> None:
    assert layers(PRINTED) == (
        Layer("ConvRelu", "FLOAT16", "NPU", "node_conv"),
        Layer("Conv", "FLOAT16", "NPU", ""),
        Layer("Gather", "INT64", "CPU", "pick"),
    )
    with pytest.raises(ValueError, match="no table of layers"):
        layers("nothing")


@pytest.mark.parametrize(
    ("content", "chip"),
    [
        (b'..."target_platform":["rk3588"],...', "rk3588"),
        (b'"target_platform":["rk3588","rk3566"]', ""),
        (b'"target_platform":["rk3588"] "target_platform":["rk3566"]', ""),
        (b"rk3588", ""),
    ],
)
def test_a_chip_is_believed_only_where_it_alone_is_named(content: bytes, chip: str, tmp_path: Path) -> None:
    (tmp_path / "m.rknn").write_bytes(content)
    assert target(tmp_path / "m.rknn") == chip


def test_chips_are_named_without_the_compiler() -> None:
    assert backends.compile_target("rk3566") == ("rknn", "rk3566")
    assert set(CHIPS) == set(backends.traits("rknn").chips)
