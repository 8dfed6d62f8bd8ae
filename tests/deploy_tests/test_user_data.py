"""``verify --data``: the recorded files against the stored truth, others against the graph's meaning or a twin run."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from attn_export import bundle
from attn_export.deploy_tests.data import inputs, user_data
from attn_export.deploy_tests.data.images import Preprocess, parse_preprocess
from attn_export.errors import GateError, UsageError
from tests.tools.run import run

DECLARED = "size=64x64,mean=0.5/0.4/0.3,std=0.2/0.3/0.4"


def decoded(file: Path) -> NDArray[Any]:
    """An image whose pixels follow from the file's bytes."""
    return np.random.default_rng(list(file.read_bytes())).integers(0, 256, (80, 72, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs.read_inputs, "__kwdefaults__", {"limit": inputs.LIMIT, "decoder": decoded})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "a.npy", np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32))
    (folder / "b.png").write_bytes(b"three")
    return folder


@pytest.fixture(scope="module")
def made(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="a bundle is made on the host")
    target = tmp_path_factory.mktemp("bundles") / "own"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs.read_inputs, "__kwdefaults__", {"limit": inputs.LIMIT, "decoder": decoded})
        options = ("--no-bench", "--mutants", "none", "--data", files, "--preprocess", DECLARED)
        done = run("repvgg", "--preset", "test", "--fuse", "-q", "-o", target, *options)
    assert done.code == 0, done.err
    return target


def test_the_bundle_records_files_and_preprocessing(made: Path) -> None:
    whole = bundle.read(made)
    assert set(whole.manifest["data"]["files"]) == {"data: a.npy", "data: b.png"}
    assert Preprocess.of(whole.manifest["data"]["preprocess"]) == parse_preprocess(DECLARED)


def test_the_files_it_was_made_with_are_held_against_the_original(made: Path, files: Path) -> None:
    done = run("verify", made, "--data", files, "--json")
    assert done.code == 0, done.err
    assert [row.get("level") for row in done.json["runs"]] == [None, "stored"]
    assert {row["case"] for row in done.json["runs"][1]["parity"]["comparisons"]} == {"data: a.npy", "data: b.png"}
    assert f"images prepared as {parse_preprocess(DECLARED).summary()}" in run("verify", made, "--data", files).out


def test_files_beyond_the_limit_are_counted(made: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs.read_inputs, "__kwdefaults__", {"limit": 1, "decoder": decoded})
    assert user_data.read(bundle.read(made), files).left == 1
    done = run("verify", made, "--data", files)
    assert f"1 files of {files} were skipped" in done.out + done.err


def test_the_recorded_preprocessing_is_applied_and_no_other(made: Path, files: Path, tmp_path: Path) -> None:
    whole = bundle.read(made)
    with pytest.raises(UsageError, match="leave it out"):
        user_data.read(whole, files, parse_preprocess("size=64x64"))
    changed = shutil.copytree(made, tmp_path / "changed")
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["data"]["preprocess"]["mean"] = [0.1, 0.1, 0.1]
    (changed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(GateError, match=r"'data: b.png' is the file that the bundle was made with, and x differs"):
        user_data.read(bundle.read(changed), files)


@pytest.mark.parametrize(("bare", "level"), [(False, user_data.ORIGINAL), (True, user_data.AGREEMENT)])
def test_new_files_say_what_they_are_held_against(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: bool, level: str
) -> None:
    (tmp_path / "new.png").write_bytes(b"another")
    if bare:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "onnx") else find(name))
    done = run("verify", made, "--data", tmp_path)
    assert done.code == 0, done.err
    assert user_data.SENTENCES[level] in done.out


@pytest.mark.parametrize("level", [user_data.MEANING, user_data.AGREEMENT])
def test_a_runtime_that_computes_something_else_fails_on_new_files(made: Path, tmp_path: Path, level: str) -> None:
    """The cases are made from the true graph, and then run on one with a weight off by 1 %."""
    feeds = {"new": {"x": np.random.default_rng(2).standard_normal((1, 3, 64, 64)).astype(np.float32)}}
    from attn_export.pipeline import float64

    make = float64.evaluate if level == user_data.MEANING else user_data._agreements
    cases = list(make(made / "model.onnx", feeds))
    model = onnx.load(made / "model.onnx")
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.ravel()[np.abs(values).argmax()] *= 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    whole = bundle.read(made)
    onnx.save(model, tmp_path / "off.onnx")
    whole = replace(whole, artifacts=(replace(whole.artifacts[0], files=(tmp_path / "off.onnx",)),))
    from attn_export.deploy_tests.parity.verify import verify

    assert not verify(whole, "onnxruntime", cases=cases).ok


def test_what_is_not_there_is_said(made: Path, tmp_path: Path) -> None:
    done = run("verify", made, "--data", tmp_path / "gone")
    assert done.code == 3
    assert "does not exist" in done.err
