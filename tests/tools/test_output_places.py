"""What a command writes goes over nothing that is not its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from attn_export.errors import WriteError
from attn_export.tools.commands import output
from tests.reparam.old_nets import NETS
from tests.tools.run import run

NET = next(net for net in NETS if net.name == "shuffled-crd").model(17)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(NET, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_fuse_leaves_what_is_no_model_alone(file: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text(r"\documentclass{book}")
    (tmp_path / "link.onnx").symlink_to(thesis)
    (tmp_path / "folder").mkdir()
    for name, why in (
        ("thesis.tex", "already exists and is not an ONNX file; nothing was written: choose another name"),
        ("link.onnx", "already exists and is not an ONNX file"),
        ("folder", "it is a folder"),
        ("nowhere/out.onnx", "does not exist; make it first"),
        ("/dev/null", "not a regular file"),
    ):
        done = run("fuse", file, "-o", tmp_path / name)
        assert (done.code, why in done.err) == (3, True), done
    assert thesis.read_text() == r"\documentclass{book}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link.onnx", "m.onnx", "thesis.tex"]


def test_fuse_replaces_models_and_writes_where_a_link_points(file: Path, tmp_path: Path) -> None:
    onnx.save(NET, tmp_path / "old.onnx")
    (tmp_path / "link.onnx").symlink_to("old.onnx")
    (tmp_path / "new.onnx").symlink_to("not-yet.onnx")
    before = (tmp_path / "old.onnx").read_bytes()
    for name, target in (("link.onnx", "old.onnx"), ("new.onnx", "not-yet.onnx")):
        assert run("fuse", file, "-o", tmp_path / name).code == 0
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_bytes() != before
    done = run("fuse", file, "-o", file)
    assert done.code == 0
    assert "will be replaced by its fused version" in done.err


def test_fuse_leaves_weights_of_others_alone(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_export.export.onnx.save.EXTERNAL", 100)  # as if it had more than 2 GB
    (tmp_path / "out.onnx.data").write_bytes(b"somebody's")
    done = run("fuse", file, "-o", tmp_path / "out.onnx")
    assert (done.code, "already exists and is not the old out.onnx's" in done.err.replace("\n", " ")) == (3, True), done
    assert (tmp_path / "out.onnx.data").read_bytes() == b"somebody's"
    assert not (tmp_path / "out.onnx").exists()


def test_report_writes_over_reports_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.md").write_text("# A thesis")
    done = run("report", tmp_path / "no-bundle", "-o", tmp_path / "thesis.md")
    assert (done.code, "is not a bundle's report" in done.err) == (3, True), done
    assert (tmp_path / "thesis.md").read_text() == "# A thesis"


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("### ✅ `se`: passed", True),
        ("<!doctype html>\n<html><head><title>se: passed · attn-export</title>", True),
        ("<!doctype html>\n<html><head><title>My page</title>", False),
        ('<?xml version="1.0" encoding="utf-8"?>\n<testsuites name="pytest"><testsuite name="pytest">', False),
        ('{"name": "a web app", "version": 3}', False),
        ("", True),
    ],
)
def test_a_report_is_known_by_its_beginning(text: str, ours: bool, tmp_path: Path) -> None:
    (tmp_path / "r").write_text(text, encoding="utf-8")
    assert output.is_report(tmp_path / "r") is ours


def test_diff_writes_to_a_folder_of_its_own(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "repro.py").write_text("# ours")
    output.folder(folder, ("repro.py",), "what diff writes")
    (folder / "thesis.tex").write_text("years")
    done = run("diff", file, "-o", folder)
    assert (done.code, "holds 'thesis.tex', which is not part of what diff writes" in done.err) == (3, True), done
    with pytest.raises(WriteError, match="cannot write to"):
        output.folder(file, (), "anything")


def test_a_file_that_only_begins_as_a_model_is_none(tmp_path: Path) -> None:
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.zeros(3), "w")])
    content = helper.make_model(graph).SerializeToString()
    for whole, wanted in ((content, True), (content[:-5], False), (b"", False)):
        (tmp_path / "f").write_bytes(whole)
        assert output.is_onnx(tmp_path / "f") is wanted
