"""A format that nothing here runs: its file is an artifact that says so, and what does run is still proven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attn_export.errors import BackendMissingError
from attn_export.export.converters import Converted, Source
from attn_export.export.converters.ort import Ort
from attn_export.export.sources.catalogue import from_spec
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline import deploy, stages
from attn_export.pipeline.gate import ParityGate
from attn_export.pipeline.options import BuildOptions, DeployOptions


class Unrun:
    """Writes a folder that no backend takes."""

    checked = "nobody runs it; its bytes were counted"

    def missing(self) -> None:
        return None

    def convert(self, source: Source) -> Converted:
        files = {"unrun.d/deep/model.unrun": b"model", "unrun.d/list": b"list"}
        return Converted("unrun", "unrun", files, "toy 1", notes=(self.checked,), checked=self.checked)


class Silent(Unrun):
    checked = ""


class Known(Unrun):
    def convert(self, source: Source) -> Converted:
        return replace(Ort().convert(source), name="known")


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, *to: str) -> deploy.DeployResult:
    monkeypatch.setattr(stages, "CONVERTERS", {"unrun": Unrun(), "silent": Silent(), "known": Known()})
    monkeypatch.setattr(stages, "parse", lambda text: (text, ""))
    options = DeployOptions(output=folder / "b", build=BuildOptions(to=to), bench=False, mutants="none")
    return deploy.deploy(from_spec("eca", MECHANISMS["eca"], "test"), options)


def test_a_file_that_nothing_runs_is_carried_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = made(tmp_path, monkeypatch, "unrun", "known")
    whole = result.bundle
    assert whole.artifact("unrun").path.read_bytes() == b"model"
    checked = {one["name"]: one["checked"] for one in whole.manifest["artifacts"] if "checked" in one}
    assert {name: checked[name] for name in ("unrun", "known")} == {"unrun": Unrun.checked, "known": ""}
    assert Unrun.checked in whole.manifest["warnings"]
    assert "convert" in [stage.name for stage in result.stages], "the other one was proven"


def test_alone_it_leaves_nothing_to_prove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = made(tmp_path, monkeypatch, "unrun")
    assert "convert" not in [stage.name for stage in result.stages], "no figure stands for it"
    assert [one.name for one in result.bundle.artifacts][1:] == ["unrun"]


def test_one_that_says_nothing_of_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendMissingError, match="no backend here runs an artifact of kind unrun"):
        made(tmp_path, monkeypatch, "silent")
    assert not (tmp_path / "b").exists()


def test_no_other_stage_passes_without_a_figure(tmp_path: Path) -> None:
    state = stages.build(from_spec("eca", MECHANISMS["eca"], "test"), BuildOptions())
    gate = ParityGate((), tmp_path, 1, None)
    silent = Silent().convert(Source(state.model, {}))
    for one in (state.made[0], replace(state.made[0], converted=(silent,))):
        with pytest.raises(AssertionError):
            gate.refuse(state, replace(one, result=None))
