"""LiteRT: a file of the format is an artifact of the bundle, proven by LiteRT alone, and a wrong one is caught."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn_export import bundle
from attn_export.bundle import Bundle
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import opened
from attn_export.deploy_tests.parity import verify as proofs
from attn_export.errors import BackendError, ExportError, GateError
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input
from attn_export.pipeline import deploy, stages
from attn_export.pipeline.options import BuildOptions, DeployOptions
from attn_export.types import Dim, TensorSpec
from tests.edge import needs
from tests.runtimes import planted_program as planted
from tests.tools.run import run

needs("litert_torch", "ai_edge_litert")
pytestmark = pytest.mark.edge

TO = BuildOptions(fuse=True, to=("litert",))


def made(folder: Path, subject: Subject, build: BuildOptions = TO) -> Bundle:
    """Run the main job, and give its bundle."""
    return deploy.deploy(subject, DeployOptions(output=folder, build=build, bench=False, mutants="none")).bundle


@pytest.fixture(scope="module", params=["repvgg", "se"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    name = request.param
    return made(tmp_path_factory.mktemp(name) / "b", from_spec(name, MECHANISMS[name], "test"))


def test_it_is_an_artifact_that_is_proven_on_every_batch(whole: Bundle) -> None:
    artifact = whole.artifact("litert")
    assert (artifact.kind, artifact.path.name) == ("tflite", "model.tflite")
    assert artifact.produced_by.startswith("litert-torch 0.")
    parity = proofs.verify(whole, "litert", artifact="litert")
    assert parity.ok
    assert parity.worst.normalized_error <= 4
    kept = {one.case for one in parity.comparisons}
    assert {len(case.inputs["x"]) for case in whole.cases if case.name in kept} > {1}
    assert len(kept) + len(parity.left_out) == len(whole.cases)


def test_the_device_needs_no_pytorch(whole: Bundle) -> None:
    code = (
        "import sys, tests.without_torch\n"
        "sys.modules['litert_torch'] = None\n"
        "sys.argv = ['attn-export', 'verify', sys.argv[1], '--artifact', 'litert', '--backend', 'litert']\n"
        "import runpy; runpy.run_module('attn_export', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(whole.path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("litert: parity holds on LiteRT 2."), done.stdout
    assert done.stderr == ""  # its compiled code says what it does, unless it is kept from it


@pytest.mark.parametrize("fault", [planted.without_weights, planted.channel_off])
def test_a_wrong_file_is_caught(
    fault: Callable[[nn.Module], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, fault)
    with pytest.raises(GateError, match="after 'convert': parity fails on LiteRT"):
        made(tmp_path / "b", from_spec("repvgg", MECHANISMS["repvgg"], "test"))
    assert not (tmp_path / "b").exists()


def test_inputs_in_another_order_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, planted.Swapped)
    with pytest.raises(GateError, match="after 'convert': parity fails on LiteRT"):
        made(tmp_path / "b", two())


def offered(monkeypatch: pytest.MonkeyPatch, fault: Callable[[nn.Module], nn.Module]) -> None:
    monkeypatch.setattr(stages, "CONVERTERS", {"litert": planted.Planted("litert", fault)})


class Two(nn.Module):
    """Keyword-only inputs, a dict of more outputs than a digit counts, one of them of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, *, image: Tensor, prior: Tensor) -> dict[str, Tensor]:
        left, right = self.left(image).tanh(), self.right(prior)
        found = {f"level{i}": left * (i + 1) - right for i in range(11)}
        return {**found, "best": left.argmax(-1), "as it came": prior}


def two() -> Subject:
    torch.manual_seed(0)
    inputs = Input("image", ("b", 8)), Input("prior", ("b", 8))
    return Subject("two", Two().eval(), inputs, {"b": 2}, (Dim("b"),))


def test_inputs_by_keyword_and_a_dict_of_outputs(tmp_path: Path) -> None:
    whole = made(tmp_path / "b", two())
    parity = proofs.verify(whole, "litert", artifact="litert")
    assert parity.ok
    assert {one.output for one in parity.comparisons} == {port.name for port in whole.outputs}
    assert len(whole.outputs) == 13
    notes = [note for note in whole.manifest["warnings"] if "args_0" in note]
    assert notes == [
        "in model.tflite, args_0 is image, args_1 is prior, "
        + ", ".join(f"output_{i} is level{i}" for i in range(11))
        + ", output_11 is best, output_12 is as it came"
    ]


class SixDimensions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tiles = x.reshape(x.shape[0], 2, 2, 2, 2, 2)
        return nn.functional.pad(tiles, (1, 1, 0, 0, 0, 0, 0, 0, 1, 0)).sum((1, 5))


def test_a_refusal_is_a_sentence_with_the_operator_and_its_line() -> None:
    subject = Subject("six", SixDimensions().eval(), (Input("x", ("b", 32)),), {"b": 2}, ())
    with pytest.raises(ExportError) as caught:
        stages.build(subject, TO)
    line = SixDimensions.forward.__code__.co_firstlineno + 2
    said = str(caught.value)
    assert said == (
        f"LiteRT cannot write the model: 'tfl.pad' op failed to verify that operand 0 is at most 5-D"
        f" ({__file__}:{line})"
    )


def test_it_says_nothing_and_asks_no_one(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Iterator[None]:
        raise AssertionError("it wants the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    state = stages.build(from_spec("se", MECHANISMS["se"], "test"), TO)
    assert [one.kind for one in state.converted] == ["tflite"]
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_a_model_that_came_as_onnx_is_refused(whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(whole.model, "--to", "litert", "--no-bench", "--mutants", "none", "-o", "made")
    assert done.code == 3
    assert (
        "litert is made from a PyTorch network, and this model came as ONNX: give the network"
        " (file.py:Net --weights …), or another format"
    ) in done.err


def test_float16_is_refused() -> None:
    with pytest.raises(ExportError, match=r"^litert: expected a model to be computed in float32, got float16$"):
        stages.build(from_spec("se", MECHANISMS["se"], "test"), BuildOptions(to=("litert:fp16",)))


def test_what_the_runtime_does_not_load_or_run_is_an_error(whole: Bundle, tmp_path: Path) -> None:
    content, file = whole.artifact("litert").path.read_bytes(), tmp_path / "m.tflite"
    for broken in (b"", b"no model", content[:1000]):
        file.write_bytes(broken)
        with pytest.raises(BackendError, match=r"LiteRT .* does not load"), opened("litert", file, Options()):
            pass
    file.write_bytes(content)
    with pytest.raises(BackendError, match="inputs: expected a, b, got args_0"):
        ports = (TensorSpec("a", "float32", (1,)), TensorSpec("b", "float32", (1,)))
        with opened("litert", file, Options(inputs=ports)):
            pass
    with opened("litert", file, Options()) as run_, pytest.raises(BackendError, match=r"args_0 of shape .* got \(1,\)"):
        run_({"args_0": np.zeros(1, np.float32)})


def test_a_file_that_allows_float16_is_no_float32(whole: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "m.tflite"
    shutil.copy(whole.artifact("litert").path, file)
    with file.open("ab") as more:
        more.write(b"reduced_precision_support")
    with (
        pytest.raises(BackendError, match="asks for float16 where the processor has it"),
        opened("litert", file, Options()),
    ):
        pass
    with opened("litert", file, Options(precision="float16")):
        pass


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(ExportError, match=r"--to litert: litert_torch is not installed: pip install 'attn-export\[l"):
        stages.build(from_spec("se", MECHANISMS["se"], "test"), TO)


def test_a_bundle_of_it_can_be_timed(whole: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "b"
    shutil.copytree(whole.path, copy)
    words = ("--artifact", "litert", "--backend", "litert", "--duration", "0", "--iterations", "1", "--json")
    timed = run("bench", copy, *words)
    assert timed.code == 0, timed.err
    assert [row["artifact"] for row in timed.json["runs"]] == ["litert"]
    assert bundle.read(copy)
