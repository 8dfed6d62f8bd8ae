"""The conformance kit: what was measured is kept, and nothing of it is believed when it is checked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.deploy_tests.backends.tensorrt import BACKEND
from attn_export.deploy_tests.conformance import kit
from attn_export.errors import BackendMissingError, BundleError, UsageError, WriteError
from tests.artifacts import onnx as onnx_artifact
from tests.deploy_tests.tensorrt import fake_trt, test_run
from tests.deploy_tests.tensorrt.graphs import X, save
from tests.deploy_tests.tensorrt.test_run import double, library  # noqa: F401  # fixtures

QUICK = {"duration": 0.0, "samples": 5}


def write(folder: Path, factor: float = 2.0, wrong: bool = False) -> Path:
    """A bundle of y = 2x + 1 in two cases."""
    folder.mkdir()
    nodes = [helper.make_node("Mul", ["x", "a"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    ports = [X("x", TensorProto.FLOAT, ["b", 3])], [X("y", TensorProto.FLOAT, ["b", 3])]
    save(folder / bundle.MODEL, nodes, *ports, {"a": np.float32(factor), "b": np.float32(1)})
    cases = []
    for rows in (1, 2):
        x = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
        truth = (3 if wrong else 2) * x.astype(np.float64) + 1
        cases.append(Case(f"b={rows}", {"x": x}, {"y": truth}, {"y": 1e-7}))
    bundle.write_cases(folder / bundle.CASES, tuple(cases))
    content = {
        "subject": {"name": "twice", "fused": False},
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["b", 3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["b", 3]}],
        "dynamic_dims": [{"name": "b"}],
        "artifacts": [onnx_artifact()],
    }
    bundle.write_manifest(folder, content)
    return folder


def made(tmp_path: Path, **options) -> tuple[Path, Path]:
    one, out = write(tmp_path / "twice", **options), tmp_path / "kit"
    kit.write_kit([one], out, backend="onnxruntime", **QUICK)
    return one, out


def status(out: Path, *bundles: Path) -> str:
    (finding,) = kit.check_kit(out, bundles)
    return finding.status


def rehash(out: Path) -> None:
    """Make the hashes right again, as one would who alters a figure."""
    manifest = json.loads((out / kit.MANIFEST).read_text())
    manifest["files"] = {file: bundle.sha256(out / file) for file in manifest["files"]}
    (out / kit.MANIFEST).write_text(json.dumps(manifest))


def test_a_kit_holds_and_its_figures_are_recomputed(tmp_path: Path) -> None:
    one, out = made(tmp_path)
    (finding,) = kit.check_kit(out, [one])
    assert finding.status == "HOLDS"
    assert finding.sentence.startswith("parity holds on ONNX Runtime")
    assert finding.percentiles["host"]["p50"] > 0
    result = json.loads((out / "twice" / kit.RESULT).read_text())
    assert len(result["samples_ms"]["host"]) >= 5
    assert "level" not in result, "a CPU run is no evidence about a GPU"
    with np.load(out / "twice" / kit.OUTPUTS) as kept:
        assert sorted(kept.files) == ["0.y", "1.y"]


def test_a_bundle_that_fails_parity_is_said_to_fail(tmp_path: Path) -> None:
    one, out = made(tmp_path, wrong=True)
    assert status(out, one) == "FAILS"


def test_a_folder_of_bundles_is_run_whole(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    for name in ("one", "two"):
        write(folder / name)
    (folder / "three.log").touch()
    (folder / "four").mkdir()  # an entry that failed left no bundle
    found = kit.write_kit([folder], tmp_path / "kit", backend="onnxruntime", **QUICK)
    assert [(finding.name, finding.status) for finding in found] == [("one", "HOLDS"), ("two", "HOLDS")]
    write(tmp_path / "new", factor=2.5)
    shutil.rmtree(folder / "two")
    (tmp_path / "new").rename(folder / "two")
    assert [finding.status for finding in kit.check_kit(tmp_path / "kit", [folder])] == ["HOLDS", "STALE"]


def test_a_changed_graph_is_stale(tmp_path: Path) -> None:
    one, out = made(tmp_path)
    assert status(out) == "HOLDS"
    again = write(tmp_path / "new", factor=2.5).rename(tmp_path / "elsewhere")
    (tmp_path / "other").mkdir()
    moved = again.rename(tmp_path / "other" / "twice")
    (finding,) = kit.check_kit(out, [moved])
    assert finding.status == "STALE"
    assert "run it again" in finding.sentence
    assert status(out, one) == "HOLDS"


@pytest.mark.parametrize("file", [kit.OUTPUTS, kit.RESULT, kit.CASES, kit.BUNDLE])
def test_an_altered_file_is_found(file: str, tmp_path: Path) -> None:
    _, out = made(tmp_path)
    path = out / "twice" / file
    path.write_bytes(path.read_bytes() + b" ")
    assert status(out) == "ALTERED"


def test_a_missing_or_an_added_file_is_found(tmp_path: Path) -> None:
    _, out = made(tmp_path)
    (out / "twice" / "extra").touch()
    assert status(out) == "ALTERED"
    (out / "twice" / "extra").unlink()
    (out / "twice" / kit.OUTPUTS).unlink()
    assert status(out) == "ALTERED"


@pytest.mark.parametrize("what", ["percentile", "verdict", "outputs"])
def test_a_figure_altered_together_with_its_hash_is_found(what: str, tmp_path: Path) -> None:
    _, out = made(tmp_path, wrong=what == "verdict")
    path = out / "twice" / kit.RESULT
    result = json.loads(path.read_text())
    if what == "percentile":
        result["percentiles"]["host"]["p50"] /= 2
    elif what == "verdict":
        result["parity"]["ok"] = True
    else:
        np.savez(out / "twice" / kit.OUTPUTS, **{"0.y": np.zeros((1, 3), np.float32), "1.y": np.zeros((2, 3), "f4")})
    path.write_text(json.dumps(result))
    rehash(out)
    (finding,) = kit.check_kit(out)
    assert (finding.status, finding.sentence) == ("ALTERED", "its figures do not follow from its raw data")


def test_a_refused_bundle_is_a_row_and_not_an_end(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good"), tmp_path / "bad"
    write(bad)
    (bad / bundle.MODEL).write_bytes(b"no model")
    manifest = json.loads((bad / bundle.MANIFEST).read_text())
    manifest["files"][bundle.MODEL] = bundle.sha256(bad / bundle.MODEL)
    (bad / bundle.MANIFEST).write_text(json.dumps(manifest))
    found = {f.name: f for f in kit.write_kit([good, bad], tmp_path / "kit", backend="onnxruntime", **QUICK)}
    assert (found["good"].status, found["bad"].status) == ("HOLDS", "REFUSED")
    assert "does not load" in found["bad"].sentence


def test_on_a_gpu_the_kit_has_three_latencies_layers_and_level_e2(
    double: test_run.Double,  # noqa: F811
    tmp_path: Path,
) -> None:
    (finding,) = kit.write_kit([write(tmp_path / "twice")], tmp_path / "kit", backend="tensorrt", **QUICK)
    assert finding.status == "HOLDS"
    assert set(finding.percentiles) == {"gpu", "host", "graph"}
    result = json.loads((tmp_path / "kit" / "twice" / kit.RESULT).read_text())
    assert result["level"] == "E2"
    assert result["layers_ms"][0]["nodes"] == ["mul"]
    assert json.loads((tmp_path / "kit" / kit.MANIFEST).read_text())["gpu"]["gpu"] == "Double"
    assert "| Double (SM87) | TensorRT 10.3.0, CUDA 12.4, driver 12.6 | 1 | 0 | 0 | 0 |" in kit.executed_on(
        [tmp_path / "kit"]
    )
    double.assert_clean()


def test_a_gpu_that_breaks_on_one_bundle_leaves_nothing_behind(
    double: test_run.Double,  # noqa: F811
    tmp_path: Path,
) -> None:
    fake_trt.REFUSE["execute_async_v3"] = False
    (finding,) = kit.write_kit([write(tmp_path / "twice")], tmp_path / "kit", backend="tensorrt", **QUICK)
    assert (finding.status, "did not start" in finding.sentence) == ("REFUSED", True)
    double.assert_clean()


def test_what_cannot_be_is_said_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, out = write(tmp_path / "twice"), tmp_path / "kit"
    with pytest.raises(UsageError, match="at least one bundle"):
        kit.write_kit([], out, backend="tensorrt")
    monkeypatch.setattr(type(BACKEND), "missing", lambda self: "no CUDA driver (cudaError 35): none")
    with pytest.raises(BackendMissingError, match="tensorrt is not available here: no CUDA driver"):
        kit.write_kit([one], out, backend="tensorrt")
    with pytest.raises(UsageError, match="two bundles lie in folders called 'twice'"):
        kit.write_kit([one, one], out, backend="onnxruntime")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        kit.write_kit([one], tmp_path / "file" / "kit", backend="onnxruntime", **QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "twice"]
    out.mkdir()
    with pytest.raises(UsageError, match="exists; a kit is written once"):
        kit.write_kit([one], out, backend="onnxruntime")
    with pytest.raises(BundleError, match="is not a conformance kit"):
        kit.check_kit(out)
    (out / kit.MANIFEST).write_text(json.dumps({"schema": kit.SCHEMA, "files": {"../twice/x": ""}}))
    with pytest.raises(BundleError, match="lies outside the kit"):
        kit.check_kit(out)


def test_the_kit_needs_neither_torch_nor_onnx() -> None:
    code = "import attn_export.deploy_tests.conformance.kit, sys; "
    code += "raise SystemExit([m for m in ('torch', 'onnx') if m in sys.modules] or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
