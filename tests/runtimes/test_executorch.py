"""ExecuTorch: a .pte file is an artifact of the bundle, proven at what sizes it takes, and a wrong one is caught."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

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

needs("executorch")
pytestmark = pytest.mark.edge

TO = BuildOptions(fuse=True, to=("executorch",))


def made(folder: Path, subject: Subject, build: BuildOptions = TO) -> Bundle:
    """Run the main job, and give its bundle."""
    return deploy.deploy(subject, DeployOptions(output=folder, build=build, bench=False, mutants="none")).bundle


@pytest.fixture(scope="module", params=["repvgg", "se"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    name = request.param
    return made(tmp_path_factory.mktemp(name) / "b", from_spec(name, MECHANISMS[name], "test"))


def test_it_is_an_artifact_that_is_proven_on_every_batch(whole: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = whole.artifact("executorch")
    assert (artifact.kind, artifact.path.name) == ("pte", "model.pte")
    assert [file.name for file in artifact.files] == ["model.pte", "model.bpte"]
    narrowed = {dim.name: dim.max for dim in artifact.narrowed_dims}
    assert narrowed["b"] == 8, "a batch has no limit in the model; here memory is planned for so many"
    capfd.readouterr()
    parity = proofs.verify(whole, "executorch", artifact="executorch")
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert parity.ok
    assert parity.worst.normalized_error <= 4
    kept = {one.case for one in parity.comparisons}
    assert len({len(case.inputs["x"]) for case in whole.cases if case.name in kept}) > 1
    assert len(kept) + len(parity.left_out) == len(whole.cases)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its reader of bundled programs uses what Python deprecates
def test_its_own_runner_finds_an_input_with_its_outputs(whole: Bundle) -> None:
    from executorch.devtools.bundled_program.serialize import deserialize_from_flatbuffer_to_bundled_program

    read = deserialize_from_flatbuffer_to_bundled_program((whole.path / "model.bpte").read_bytes())
    assert read.program == whole.artifact("executorch").path.read_bytes()
    (suite,) = read.method_test_suites
    (case,) = suite.test_cases
    with opened("executorch", whole.artifact("executorch").path, Options()) as run_:
        found = run_({f"tensor_{i}": array(value.val) for i, value in enumerate(case.inputs)})
    for i, expected in enumerate(case.expected_outputs):
        np.testing.assert_allclose(found[f"tensor_{i}"], array(expected.val), rtol=1e-3, atol=1e-5)


def array(value: Any) -> Any:
    return np.frombuffer(bytes(value.data), np.float32).reshape(value.sizes)


@pytest.mark.parametrize("fault", [planted.without_weights, planted.channel_off, planted.FirstOnly])
def test_a_wrong_file_is_caught(
    fault: Callable[[nn.Module], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, fault)
    with pytest.raises(GateError, match="after 'convert': parity fails on ExecuTorch"):
        made(tmp_path / "b", from_spec("repvgg", MECHANISMS["repvgg"], "test"))
    assert not (tmp_path / "b").exists()


def test_inputs_in_another_order_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, planted.Swapped)
    with pytest.raises(GateError, match="after 'convert': parity fails on ExecuTorch"):
        made(tmp_path / "b", two())


def offered(monkeypatch: pytest.MonkeyPatch, fault: Callable[[nn.Module], nn.Module]) -> None:
    monkeypatch.setattr(stages, "CONVERTERS", {"executorch": planted.Planted("executorch", fault)})


class Two(nn.Module):
    """Keyword-only inputs, and a dict of outputs, one of them of integers and one an input as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, *, image: Tensor, prior: Tensor) -> dict[str, Tensor]:
        left, right = self.left(image).tanh(), self.right(prior)
        return {"near": left - right, "far": left * 2 + right, "best": left.argmax(-1), "as it came": prior}


def two() -> Subject:
    torch.manual_seed(0)
    inputs = Input("image", ("b", 8)), Input("prior", ("b", 8))
    return Subject("two", Two().eval(), inputs, {"b": 2}, (Dim("b"),))


def test_inputs_by_keyword_and_a_dict_of_outputs(tmp_path: Path) -> None:
    whole = made(tmp_path / "b", two())
    parity = proofs.verify(whole, "executorch", artifact="executorch")
    assert parity.ok
    assert {one.output for one in parity.comparisons} == {"near", "far", "best", "as it came"}
    assert whole.artifact("executorch").narrowed_dims == (Dim("b", 1, 8),)
    said = [note for note in whole.manifest["warnings"] if "XNNPACK takes" in note]
    assert len(said) == 1
    assert "aten_argmax_default (1)" in said[0]


def test_float16_is_refused() -> None:
    with pytest.raises(ExportError, match=r"^executorch: expected a model to be computed in float32, got float16$"):
        stages.build(two(), BuildOptions(to=("executorch:fp16",)))


def test_it_says_nothing_and_asks_no_one(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Iterator[None]:
        raise AssertionError("it wants the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    state = stages.build(from_spec("se", MECHANISMS["se"], "test"), TO)
    assert [one.kind for one in state.converted] == ["pte"]
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_a_model_that_came_as_onnx_is_refused(whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(whole.model, "--to", "executorch", "--no-bench", "--mutants", "none", "-o", "made")
    assert done.code == 3
    assert "executorch is made from a PyTorch network, and this model came as ONNX" in done.err


def test_what_the_runtime_does_not_load_or_run_is_an_error(whole: Bundle, tmp_path: Path) -> None:
    content, file = whole.artifact("executorch").path.read_bytes(), tmp_path / "m.pte"
    for broken in (b"", b"no model" * 20, content[:500]):
        file.write_bytes(broken)
        with pytest.raises(BackendError, match=r"ExecuTorch .* does not load"), opened("executorch", file, Options()):
            pass
    file.write_bytes(content)
    ports = (TensorSpec("a", "float32", (1,)), TensorSpec("b", "float32", (1,)))
    with (
        pytest.raises(BackendError, match=r"inputs: expected 2 \(a, b\), got 1"),
        opened("executorch", file, Options(inputs=ports)),
    ):
        pass
    with (
        opened("executorch", file, Options()) as run_,
        pytest.raises(BackendError, match=r"tensor_0 of shape .* at most, got \(1,\)"),
    ):
        run_({"tensor_0": np.zeros(1, np.float32)})
