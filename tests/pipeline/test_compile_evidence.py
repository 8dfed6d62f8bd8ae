"""What is compiled without a GPU goes into the report in exactly these words, and is never more than that."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from attn_export import bundle
from attn_export.deploy_tests.backends.tensorrt import bindings, evidence
from attn_export.deploy_tests.compiling.evidence import graph_hash
from attn_export.errors import BackendMissingError, BundleError, UsageError, WriteError
from attn_export.pipeline.report import compile_evidence
from attn_export.pipeline.report import formats as report_formats
from attn_export.tools.commands import device
from tests.deploy_tests.test_conformance import write
from tests.pipeline import schema

CLAIM = "builds under TensorRT for RTX 1.7.1 (SM86), not run"


def build(folder: Path, sm: str, *shapes: str, as_json: bool = False) -> None:
    """The command, for one compute capability."""
    device.compile_(device.CompileRequest(path=folder, target=f"tensorrt_rtx:sm{sm}", shapes=shapes), as_json=as_json)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if why := evidence.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    folder = write(tmp_path_factory.mktemp("compiled") / "twice")
    build(folder, "86")
    return folder


def test_the_report_says_product_version_sm_and_not_run(made: Path) -> None:
    report = json.loads((made / bundle.REPORT).read_text())
    assert schema.faults(report) == []
    (item,) = report["compiled"]
    assert (item["level"], item["claim"], item["executed"]) == ("E1", CLAIM, False)
    assert (item["product"], item["version"], item["sm"]) == ("TensorRT for RTX", "1.7.1.116", "86")
    assert item["sha256"] == graph_hash(made / bundle.MODEL)
    assert item["plan"]["kernels"] >= 1
    assert report["runs"] == []  # a build is no run, and proves no parity
    line = f"E1: {CLAIM}; {item['plan']['kernels']} kernels, 0 fused attention"
    assert line in (made / bundle.PAGE).read_text()
    assert line in report_formats.markdown(bundle.read(made).manifest, report, "twice")
    assert "nothing was proven" in (made / bundle.PAGE).read_text()


def test_a_range_outside_the_contract_is_a_matter_of_usage(made: Path) -> None:
    with pytest.raises(UsageError, match="dimension 1 of 'x' is fixed at 3"):
        build(made, "86", "x:1x4")


def test_another_target_is_added_and_the_same_replaced(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "twice"
    shutil.copytree(made, folder)
    before = json.loads((folder / bundle.REPORT).read_text())
    before["runs"] = [{"backend": "kept"}]
    rewrite(folder, before)
    build(folder, "86", as_json=True)
    build(folder, "89", "x:2x3,4x3,9x3", as_json=True)
    report = json.loads((folder / bundle.REPORT).read_text())
    assert [item["sm"] for item in report["compiled"]] == ["86", "89"]
    assert [item["flags"]["shapes"]["x"] for item in report["compiled"]] == [
        {"min": [1, 3], "opt": [1, 3], "max": [2, 3]},  # from its cases
        {"min": [2, 3], "opt": [4, 3], "max": [9, 3]},
    ]
    assert report["runs"] == [{"backend": "kept"}]
    bundle.read(folder)


def rewrite(folder: Path, report: object) -> None:
    """Another report, with the hashes made right."""
    (folder / bundle.REPORT).write_text(json.dumps(report))
    bundle.write_manifest(folder, json.loads((folder / bundle.MANIFEST).read_text()))


def test_what_cannot_be_kept_is_said(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "twice"
    shutil.copytree(made, folder)
    rewrite(folder, {"schema_version": 3, "runs": [{"backend": 3}]})
    with pytest.raises(BundleError, match=r"report\.json is not a readable report: runs\[0\]\.backend"):
        build(folder, "86", as_json=True)
    rewrite(folder, {"schema_version": 3, "runs": []})
    monkeypatch.chdir(folder)
    with pytest.raises(WriteError, match="the working directory, and is never replaced"):
        build(Path(), "86", as_json=True)


def test_a_signed_bundle_is_built_and_left_as_it_is(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "twice"
    shutil.copytree(made, folder)
    (folder / bundle.SIGNATURE).write_text("signature")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    build(folder, "86")
    assert f"not kept: {folder} is signed" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_new_digest_is_said(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "twice"
    shutil.copytree(made, folder)
    before = bundle.digest(folder)
    build(folder, "89")
    after = bundle.read(folder).digest
    assert after != before
    assert f"its digest is now {after}" in capsys.readouterr().out


def test_without_the_package_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "twice")
    monkeypatch.setattr(bindings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendMissingError, match=r"pip install 'attn-export\[rtx\]'"):
        build(folder, "86", as_json=True)
    assert not (folder / bundle.REPORT).exists()
    assert compile_evidence.sentences({}) == []
