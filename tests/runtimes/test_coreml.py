"""Core ML: a package is an artifact that nothing here runs; it says so, and what is not the program is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from attn_export.bundle import Bundle
from attn_export.errors import ExportError
from attn_export.export.converters.coreml import converter, package
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline import deploy, stages
from attn_export.pipeline.options import BuildOptions, DeployOptions
from tests.edge import needs
from tests.runtimes import planted_program as planted
from tests.runtimes.test_litert import two
from tests.tools.run import run

needs("coremltools", "litert_torch", "ai_edge_litert")
pytestmark = pytest.mark.edge

TO = BuildOptions(fuse=True, to=("coreml",))


def subject(name: str) -> Subject:
    return from_spec(name, MECHANISMS[name], "test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = DeployOptions(output=tmp_path_factory.mktemp("b") / "b", build=TO, bench=False, mutants="none")
    return deploy.deploy(subject("repvgg"), options).bundle


def test_it_is_an_artifact_that_says_it_was_not_run(whole: Bundle) -> None:
    artifact = whole.artifact("coreml")
    assert (artifact.kind, artifact.path.name) == ("mlpackage", "model.mlmodel")
    assert artifact.produced_by.startswith("coremltools 9.")
    folder = whole.path / "coreml.mlpackage"
    listing = json.loads((folder / "Manifest.json").read_text())
    assert all((folder / "Data" / entry["path"]).exists() for entry in listing["itemInfoEntries"].values())
    (record,) = (one for one in whole.manifest["artifacts"] if one["name"] == "coreml")
    assert record["checked"].startswith("Apple's compiler never saw it, and nobody knows what it computes; read back,")
    assert record["checked"].endswith("its operators with weights (7) and its weights, bit for bit (14)")
    assert any(note.startswith("coreml.mlpackage was not run") for note in whole.manifest["warnings"])
    assert "coreml" not in (whole.path / "report.json").read_text()


def test_asking_for_a_proof_of_it_fails_in_plain_words(whole: Bundle) -> None:
    assert run("verify", whole.path).code == 0
    done = run("verify", whole.path, "--artifact", "coreml")
    assert done.code == 4
    assert "not run: it takes artifacts of kind onnx or ort, and the bundle holds" in done.out


@pytest.mark.parametrize("fault", [planted.without_weights, planted.channel_off])
def test_a_program_that_is_not_the_model_is_refused(
    fault: Callable[[nn.Module], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "CONVERTERS", {"coreml": planted.Planted("coreml", fault)})
    with pytest.raises(ExportError, match="the PyTorch program is not the model: expected the example's 'y'"):
        stages.build(subject("repvgg"), TO)


def test_inputs_in_another_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "CONVERTERS", {"coreml": planted.Planted("coreml", planted.Swapped)})
    with pytest.raises(ExportError, match="the PyTorch program is not the model"):
        stages.build(two(), TO)


def test_one_bit_of_a_weight_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = package.structure

    def flipped(specification: Any, folder: Path) -> Any:
        (file,) = (folder / package.WEIGHTS).glob("*.bin")
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
        return ours(specification, folder)

    monkeypatch.setattr(package, "structure", flipped)
    with pytest.raises(ExportError, match=r"of 14 weights 1 are not in it bit for bit, the first of shape \("):
        stages.build(subject("repvgg"), TO)


def test_weights_that_the_converter_makes_anew_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = BuildOptions(to=("coreml",))
    assert stages.build(subject("repvgg"), plain).converted[0].checked
    monkeypatch.setattr(converter, "_FOLDING", ())
    with pytest.raises(ExportError, match="are not in it bit for bit"):
        stages.build(subject("repvgg"), plain)


@pytest.mark.parametrize("name", ["rope", "outlook"])
def test_a_second_name_of_a_tensor_and_many_dimensions_are_taken(name: str) -> None:
    assert stages.build(subject(name), TO).converted[0].checked


def test_ports_of_several_types_are_named() -> None:
    (one,) = stages.build(two(), TO).converted
    assert one.notes[1].startswith("in coreml.mlpackage, tensors_0 is image, tensors_1 is prior, ")


def test_it_is_the_same_every_time_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    first, second = (stages.build(subject("se"), TO).converted[0] for _ in range(2))
    assert first.files == second.files
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_float16_and_what_is_missing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match=r"^coreml: expected a model to be computed in float32, got float16$"):
        stages.build(subject("se"), BuildOptions(to=("coreml:fp16",)))
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ExportError, match=r"--to coreml: coremltools is not installed: pip install 'attn-export\[core"):
        stages.build(subject("se"), TO)
