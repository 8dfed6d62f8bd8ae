"""Where only what comes after the stages changes, they are taken from the cache, and the bundle is the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.cache import place, store
from attn_export.pipeline import built, stages
from attn_export.pipeline.built import Built
from attn_export.pipeline.options import BuildOptions
from attn_export.pipeline.stage import Made
from tests.tools.run import Result, run

KEPT = "from the cache: stages and cases, proven on "
BASE = ("--preset", "test", "--no-bench", "-q")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache"


def is_kept(done: Result) -> bool:
    assert done.code == 0, done.err
    return KEPT in done.out


def never(*_: object, **__: object) -> None:
    raise AssertionError("the stages were run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("repvgg", "--fuse"),
        ("se", "--fp16"),
        ("se", "--to", "ort"),
    ],
    ids=" ".join,
)
def test_faults_alone_are_injected_anew(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_kept(run(*words, *BASE, "--mutants", "none", "-o", "first"))
    with monkeypatch.context() as patch:
        patch.setattr(stages, "run", never)
        assert is_kept(run(*words, *BASE, "-o", "second"))
    assert not is_kept(run(*words, *BASE, "-o", "fresh", "--no-cache"))
    first, second, fresh = (bundle.read(Path(name)) for name in ("first", "second", "fresh"))
    told = {"report.json", "report.html"}
    assert second.manifest["files"].keys() == fresh.manifest["files"].keys()
    for name in second.manifest["files"].keys() - told:
        assert second.manifest["files"][name] == first.manifest["files"][name], name
        if name != "model.ort":  # which is another one each time that it is written
            assert second.manifest["files"][name] == fresh.manifest["files"][name], name
    changed = {name for name, value in fresh.manifest.items() if second.manifest[name] != value}
    assert changed <= {"command", "files", "mutation", "environment", "created"}
    assert second.manifest["mutation"]["mutants"]
    assert run("verify", "second").code == 0


@pytest.mark.slow
def test_warnings_are_said_again_and_the_times_are_those_that_it_took() -> None:
    first = run("se", "--preset", "test", "--no-bench", "--mutants", "none", "--json")
    second = run("se", "--preset", "test", "--no-bench", "--json")
    assert second.err == first.err
    assert second.json["warnings"] == first.json["warnings"]
    assert second.json["stages_kept_since"].endswith("Z")
    assert second.json["kept_since"] is None
    assert second.json["seconds"]["export"] == first.json["seconds"]["export"]
    rows = run("cache", "--json").json["entries"]
    assert sorted(row["stages"] for row in rows) == [False, False, True]


@pytest.mark.slow
def test_another_graph_or_another_check_of_it_is_another(root: Path) -> None:
    assert not is_kept(run("se", *BASE, "--mutants", "none", "-o", "a"))
    for words in (("--opset", "19"), ("--seed", "1"), ("--threads", "2"), ("--no-simplify",)):
        assert not is_kept(run("se", *BASE, "--mutants", "none", "-o", "a", *words)), words


@pytest.mark.slow
def test_what_is_damaged_is_made_anew(root: Path) -> None:
    assert not is_kept(run("se", *BASE, "--mutants", "none", "-o", "a"))
    (entry,) = [one for one in store.listed(root) if one.facts.get("stages")]
    for name in entry.files:
        if name != "state.json":
            blob = entry.folder / entry.files[name]
            blob.write_bytes(blob.read_bytes()[:-1])
    done = run("se", "--preset", "test", "--no-bench", "-o", "a")
    assert not is_kept(done)
    assert "what the cache kept was damaged and is removed, the job is run" in done.err
    assert is_kept(run("se", *BASE, "--mutants", "none", "-o", "a", "--atol", "1"))


def some() -> Built:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made = Made("export", model, account=(BuildOptions(to=("a",)), {1: [2.5, float("inf")]}, b"bytes", Path("p"), None))
    case = Case("c", {"x": np.arange(3, dtype=np.float32)}, {"y": np.zeros((0, 2))}, {"y": np.float64(1e-300)})  # type: ignore[dict-item]
    return Built((made,), ("said",), (), (case,), None, {"export": 0.1}, {"export": 0.2}, 7.0)


def kept(made: Built) -> tuple[str, dict[str, bytes]]:
    pieces: dict[str, bytes] = {}

    def keep(piece: bytes) -> str:
        pieces[built.named(piece)] = piece
        return built.named(piece)

    return built.write(made, keep), pieces


def test_what_is_written_is_read_again() -> None:
    first = some()
    text, pieces = kept(first)
    again = built.read(text, pieces.__getitem__)
    assert again.made == first.made
    assert (again.warnings, again.said, again.seconds, again.spent) == (("said",), (), {"export": 0.1}, 7.0)
    assert again.processor == {"export": 0.2}
    (case,), (before,) = again.cases, first.cases
    assert case.inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(case.inputs["x"], before.inputs["x"])
    assert case.reference["y"].shape == (0, 2)
    assert case.float32_error == before.float32_error
    assert isinstance(again.made[0].exported, onnx.ModelProto)


@pytest.mark.parametrize("value", [object(), np.array([object()]), {1, 2}, int, 1 + 2j])
def test_what_no_one_has_foreseen_is_not_written(value: object) -> None:
    with pytest.raises(TypeError, match="is not kept"):
        built.write(Built((), (), (), (), None, {"x": value}, {}, 0.0), lambda _: "")  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "of", ["subprocess:Popen", "attn_export.errors:LoadError", "attn_export.pipeline.built:importlib", "os:system"]
)
def test_nothing_but_dataclasses_of_ours_is_made(of: str) -> None:
    with pytest.raises(TypeError, match="is no dataclass of ours"):
        built.read(json.dumps({"of": of, "fields": {}}), lambda _: b"")


def test_nothing_is_unpickled() -> None:
    import io

    page = io.BytesIO()
    np.save(page, np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        built.read(json.dumps({"array": "x"}), lambda _: page.getvalue())
