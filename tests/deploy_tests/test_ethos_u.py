"""Arm's Vela: operators on the NPU and on the CPU by name, for the NPU that stands in the command stream."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest

from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import CompileOptions
from attn_export.deploy_tests.backends.ethos_u import chips, vela
from attn_export.deploy_tests.backends.ethos_u.backend import EthosU
from attn_export.deploy_tests.compiling.evidence import CpuNode
from attn_export.deploy_tests.refusal import RefusedError
from attn_export.errors import BackendError, BackendMissingError
from attn_export.tools.commands import device
from tests import edge
from tests.deploy_tests.test_conformance import write

compiled = pytest.mark.edge


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 file of a convolution, which the NPU takes, and a cumulative sum, which it does not."""
    edge.require(EthosU().missing_compiler())
    edge.needs("litert_torch")
    import litert_torch
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(torch.relu(self.first(x)), 1)

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vela") / "m.tflite"
    litert_torch.convert(Net().eval(), (torch.zeros(1, 3, 8, 8),)).export(str(file))
    return file


def feeds(size: int = 8) -> tuple[dict[str, np.ndarray], ...]:
    draw = np.random.default_rng(0)
    return tuple({"x": draw.standard_normal((1, 3, size, size)).astype(np.float32)} for _ in range(3))


@compiled
@pytest.mark.filterwarnings("ignore")  # the converter's own
@pytest.mark.parametrize("chip", ["ethos-u55-64", "ethos-u65-256", "ethos-u85-256", "ethos-u85-2048"])
def test_the_npu_is_read_from_the_command_stream(model: Path, chip: str) -> None:
    shown = EthosU().compile_only(model, CompileOptions(chip, calibration=feeds()))
    assert shown.chip == chip
    assert shown.sizes == {"x": (1, 3, 8, 8)}
    assert shown.placement.accelerator >= 1
    assert [node.op for node in shown.placement.cpu] == ["Dequantize", "Cumsum", "Quantize"]
    assert shown.estimate["system configuration"].startswith(f"Ethos_U{chip[7:9]}_")
    assert shown.estimate["NPU cycles"] > 0
    assert "the compiler's own estimate, measured nowhere: system configuration" in shown.details()


@compiled
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_is_refused(model: Path) -> None:
    with pytest.raises(RefusedError, match="there are no inputs of the file's sizes") as caught:
        EthosU().compile_only(model, CompileOptions(calibration=feeds(size=9)))
    assert caught.value.exit_code == 3
    with pytest.raises(RefusedError, match=r"Arm's Vela refuses .*"):
        EthosU().compile_only(model, CompileOptions("ethos-u99-256", calibration=feeds()))


@compiled
@pytest.mark.filterwarnings("ignore")
def test_a_stream_for_another_npu_proves_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chips, "FAMILIES", ("ethos-u85", "ethos-u65", "ethos-u55"))
    with pytest.raises(BackendError, match="expected command streams for ethos-u85-256, got ethos-u55-256"):
        EthosU().compile_only(model, CompileOptions(calibration=feeds()))


def test_a_bundle_without_the_kind_says_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EthosU, "missing_compiler", lambda self: None)
    folder = write(tmp_path / "twice")
    with pytest.raises(BackendError, match=r"ethos_u compiles artifacts of kind tflite, and .* holds model"):
        device.compile_(device.CompileRequest(path=folder, target="ethos-u85-256"), as_json=True)


def test_without_the_package_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ethosu" else found(name))
    folder = write(tmp_path / "twice")
    with pytest.raises(BackendMissingError, match=r"ethos-u-vela is not installed.*attn-export\[ethos-u\]") as caught:
        device.compile_(device.CompileRequest(path=folder, target="ethos-u85-256"), as_json=True)
    assert caught.value.exit_code == 4


def test_the_registers_are_read(tmp_path: Path) -> None:
    file = tmp_path / "m.tflite"
    head = b"COP1\x01\x00\x10\x00"
    file.write_bytes(b"x" + 2 * (head + struct.pack("<I", 0x20000118)) + b"COP1 is no head")
    assert chips.read_back(file) == (("ethos-u85-256", "config=0x20000118"),)
    file.write_bytes(head + struct.pack("<I", 0x20000118) + head + struct.pack("<I", 0x3008))
    assert [name for name, _ in chips.read_back(file)] == ["ethos-u85-256", "ethos-u55-256"]


TABLE = (
    "Original Operator,NNG Operator,Target,Name\nConv2D,Conv2D,NPU,a;b \nMean,Passthrough,CPU,mean;1 \nMul,Mul,NPU,y\n"
)
SAID = """\
Warning (supported operators) operator: MEAN, ofm: 'mean;1'
Reason: Unsupported depth-reduction.  IFM: 1, 32, 7, 9
Reduction over depth
"""


def test_the_tables_are_read(tmp_path: Path) -> None:
    table, summary = tmp_path / "t.csv", tmp_path / "s.csv"
    table.write_text(TABLE)
    reason = "Unsupported depth-reduction.  IFM: 1, 32, 7, 9"
    assert vela.operators(table, SAID) == (2, (CpuNode("mean;1", "Mean", reason),))
    names = "system_config,memory_mode,sram_memory_used,dram_memory_used,cycles_npu,cycles_total,inference_time"
    summary.write_text(f"{names}\nSYS,Mode,0.75,5.5,2009,7768,7e-6\n")
    found = vela.estimate(summary)
    assert (found["system configuration"], found["NPU cycles"], found["KiB of SRAM"]) == ("SYS", 2009.0, 0.75)
    assert "inference" not in str(found)  # a time that nobody measured


def test_the_short_name_is_enough() -> None:
    assert backends.compile_target("ethos-u55-128") == ("ethos_u", "ethos-u55-128")
