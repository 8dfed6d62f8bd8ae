"""Rows of compilers for chips that are not here: what was placed, and what a simulator says under its own label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import CompileOptions
from attn_export.deploy_tests.compiling.evidence import ChipEvidence, CpuNode, Placement
from attn_export.deploy_tests.compiling.only import CompileOnly
from attn_export.deploy_tests.parity.simulated import Simulated
from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.registry import Entry
from benchmarks.targets.compiled import LEAST, LIMIT, _without, compiled, judged
from benchmarks.targets.prepared import prepared
from benchmarks.targets.row import Row
from tests.deploy_tests.test_conformance import write


@dataclass(frozen=True)
class Toy(CompileOnly):
    """A compiler whose simulator computes y = 2x + 1, with a noise that is asked for."""

    absent: ClassVar[str] = "nothing runs here"
    accepts: ClassVar[tuple[str, ...]] = ("onnx",)
    compiles_for: ClassVar[tuple[str, ...]] = ("toy",)
    precisions: ClassVar[tuple[str, ...]] = ("float16", "int8")
    simulates: ClassVar[bool] = True
    noise: float = 0.0
    refuses: bool = False
    limit: float = 600.0

    def version(self) -> str:
        return "toy 1"

    def missing_compiler(self) -> None:
        return None

    def compile_only(self, model: Path, options: CompileOptions) -> ChipEvidence:
        assert self.limit == LIMIT
        if self.refuses:
            raise RefusedError(f"toy refuses {model}", "build", [Complaint("n", "Mul", "no")])
        came = [{"y": 2 * np.asarray(one["x"], np.float64) + 1 + self.noise} for one in options.simulate]
        placed = Placement(3, (CpuNode("m", "Mul"),))
        said = ("t", "C", "c=C", options.precision, {}, "0" * 64, placed, 1, "0" * 64, 0.1)
        return ChipEvidence("toy", "1", *said, simulated=came)


@dataclass(frozen=True)
class Real(Toy):
    """A compiler whose simulator runs the model that it is given, or one that it was given before."""

    always: Path | None = None

    def compile_only(self, model: Path, options: CompileOptions) -> ChipEvidence:
        import onnxruntime

        assert set(options.shapes) == {"x"}, "what may vary has a size for the build"
        session = onnxruntime.InferenceSession(str(self.always or model), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        came = [dict(zip(names, session.run(names, dict(one)), strict=True)) for one in options.simulate]
        return replace(super().compile_only(model, replace(options, simulate=())), simulated=came)


def offer(monkeypatch: pytest.MonkeyPatch, toy: Toy) -> None:
    ours = type(backends.BACKENDS).__getitem__
    entries = {**backends.BACKENDS.entries, "toy": Entry("plug-in", "toy", None)}
    monkeypatch.setattr(backends.BACKENDS, "entries", entries)
    monkeypatch.setattr(
        type(backends.BACKENDS), "__getitem__", lambda self, name: toy if name == "toy" else ours(self, name)
    )


def row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str = "toy:c:float16", **rest: Any) -> Row:
    offer(monkeypatch, Toy(**rest))
    write(tmp_path / "twice-test-fused")
    prepared.cache_clear()
    return compiled(target, "twice", "test", folder=tmp_path)


def test_a_row_tells_what_was_placed_and_simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = row(monkeypatch, tmp_path, noise=1e-4)
    assert (found.target, found.converted, found.share_on_accelerator, found.ran) == ("toy:c:float16", True, 0.75, True)
    assert (found.evidence, found.reason, found.fused) == ("E1, simulated", "", False)
    assert found.snr_db is not None
    assert 60 < found.snr_db < 110
    assert found.versions == {"compiler": "toy 1"}
    assert found.k is None


def test_what_the_simulator_gets_wrong_and_what_is_refused_has_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    wrong = row(monkeypatch, tmp_path / "a", noise=1.0)
    assert wrong.right is False
    assert f"; {LEAST['float16']:g} dB are asked of float16 here" in wrong.reason
    (tmp_path / "b").mkdir()
    refused = row(monkeypatch, tmp_path / "b", refuses=True)
    assert (refused.converted, refused.ran, refused.evidence) == (False, None, "")
    assert refused.reason == "toy refuses …/twice-test-fused/model.onnx: Mul 'n': no"
    assert _without(Path("/there"), "no /there/b and no /tmp/tmpa1_b/m.tflite") == "no …/b and no …/m.tflite"


def test_a_broken_simulator_is_no_verdict_on_the_build() -> None:
    built = Row("toy", "se", converted=True, evidence="E1")
    broken = judged(built, None, {"warnings": ["the simulator broke: no kernel"], "precision": "int8"})
    assert (broken.converted, broken.ran, broken.reason) == (True, False, "the simulator broke: no kernel")
    assert judged(built, None, {"warnings": [], "precision": "int8"}) == built
    nan = judged(built, Simulated(1, None, "a", "y", "NaN or infinite values"), {"precision": "int8"})
    assert (nan.ran, nan.right) == (True, False)
    assert "NaN or infinite values" in nan.reason


@pytest.mark.slow
def test_networks_with_a_fault_are_compiled_and_one_that_passes_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepared.cache_clear()
    offer(monkeypatch, Real())
    found = compiled("toy:c:float16", "repvgg", "test", folder=tmp_path, faults=True)
    assert (found.right, found.reason) == (True, "")
    assert found.faults_caught is not None
    caught, of = found.faults_caught
    assert caught == of >= 2
    assert compiled("toy:c:float16", "repvgg", "test", folder=tmp_path).faults_caught is None, "they were not asked for"
    offer(monkeypatch, Real(always=tmp_path / "repvgg-test-fused" / "model.onnx"))
    assert compiled("toy:c:float16", "repvgg", "test", folder=tmp_path, faults=True).faults_caught == (0, of)
