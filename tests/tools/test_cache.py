"""The main job's cache: an equal run gives the same at once, and whatever differs is never taken for equal."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attn_export import bundle
from attn_export.bundle import writer
from attn_export.cache import house, place, store
from attn_export.errors import GateError
from attn_export.export import sources
from attn_export.export.source import SourceOptions
from attn_export.pipeline import deploy
from attn_export.tools import shortcut
from attn_export.tools.account import Account
from attn_export.tools.commands import kept
from attn_export.tools.commands.kept import Job
from tests.tools.run import Result, run

KEPT = "from the cache: made and measured on "
SE = ("se", "--preset", "test", "--no-bench", "--mutants", "none")
ACCOUNT = Account("net", "", (), "", (), (), "", (), {})


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own, and an empty folder to stand in."""
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with as_before(tmp_path):
        yield tmp_path / "cache"


@contextlib.contextmanager
def as_before(place: Path) -> Iterator[None]:
    """Forget what was imported from a folder, and that Python looks there: as a new process would."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(place)):
            del sys.modules[name]


def is_kept(done: Result) -> bool:
    assert done.code == 0, done.err
    return KEPT in done.out


def whole(root: Path) -> list[store.Entry]:
    """List results, without what stages made."""
    return [entry for entry in (store.listed(root) if root.exists() else ()) if not entry.facts.get("stages")]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_torch(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the program in an interpreter that can import none of what takes long; nor the command line itself."""
    heavy = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "typer", "rich", "pydantic")
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {heavy}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        f"sys.argv = ['attn-export', *{words!r}]\n"
        "from attn_export.tools.entry import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
class TestEqualRuns:
    """What an equal run does."""

    def test_it_says_the_same_and_writes_the_same_bytes_without_torch(self, tmp_path: Path) -> None:
        program = (sys.executable, "-m", "attn_export", *SE)
        first = subprocess.run(program, capture_output=True, text=True, check=True)
        assert KEPT not in first.stdout
        before = content(Path("se-test"))
        Path("se-test").rename(tmp_path / "first")
        again = without_torch(*SE)
        assert again.returncode == 0, again.stderr
        *same, last, _ = again.stdout.split("\n")
        assert "\n".join([*same, ""]) == first.stdout
        assert last.startswith(KEPT)
        assert last.endswith("; --no-cache does it again")
        assert again.stderr == first.stderr, "warnings are said again"
        assert content(Path("se-test")) == before
        assert run("verify", "se-test").code == 0

    def test_a_bundle_that_lies_there_already_is_not_touched(self) -> None:
        assert not is_kept(run(*SE))

        def looks() -> dict[str, tuple[int, int]]:
            return {path.name: (path.stat().st_ino, path.stat().st_ctime_ns) for path in Path("se-test").iterdir()}

        before = looks()
        assert is_kept(run(*SE))
        assert looks() == before

    def test_another_folder_gets_its_own_page_and_command(self) -> None:
        assert not is_kept(run(*SE))
        assert is_kept(run(*SE, "-o", "other"))
        first, other = bundle.read(Path("se-test")), bundle.read(Path("other"))
        assert other.manifest["command"] == [*SE, "-o", "other"]
        changed = {name for name, digest in other.manifest["files"].items() if first.manifest["files"][name] != digest}
        assert changed == {bundle.PAGE}
        assert "attn-export verify other" in (other.path / bundle.PAGE).read_text()
        assert run("verify", "other").code == 0

    def test_what_is_made_anew_is_what_the_job_makes(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not is_kept(run(*SE))
        before = content(Path("se-test"))
        (entry,) = whole(root)
        kept._under_another_name(entry, Path("elsewhere/se-test"), SE)
        assert content(Path("elsewhere/se-test")) == before

    def test_how_it_is_said_makes_no_other_result(self) -> None:
        assert run(*SE, "--json", "-q").json["kept_since"] is None
        found = run(*SE, "--json").json
        assert found["kept_since"].endswith("Z")
        assert found["bundle"] == "se-test"
        assert found["digest"] == bundle.digest(Path("se-test"))
        assert found["parity"] is True
        assert is_kept(run(*SE, "-v"))

    def test_no_cache_neither_takes_nor_keeps(self, root: Path) -> None:
        assert not is_kept(run(*SE, "--no-cache"))
        assert not root.exists()
        assert not is_kept(run(*SE))
        before = store.listed(root)
        assert len(whole(root)) == 1
        assert not is_kept(run(*SE, "--no-cache"))
        assert store.listed(root) == before

    def test_what_fails_is_not_kept(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: object) -> None:
            raise GateError("no such luck")

        with monkeypatch.context() as patch:
            patch.setattr(deploy, "_audit", fails)
            assert run(*SE).code == 1
        assert not whole(root)
        assert not is_kept(run(*SE))


@pytest.mark.slow
class TestDamage:
    """What is not as it was put in is none, and the job is run."""

    @pytest.fixture(autouse=True)
    def first(self) -> None:
        assert not is_kept(run(*SE))

    def test_a_damaged_model(self, root: Path) -> None:
        (entry,) = whole(root)
        blob = entry.folder / entry.files["model.onnx"]
        blob.write_bytes(blob.read_bytes()[:-1] + b"!")
        before = content(Path("se-test"))
        assert is_kept(run(*SE)), "the bundle that lies there is whole"
        assert content(Path("se-test")) == before
        done = run(*SE, "-o", "other")
        assert not is_kept(done)
        assert "what the cache kept was damaged and is removed, the job is run" in done.err
        assert not [path for path in Path().iterdir() if path.name.startswith(".")]
        assert run("verify", "other").code == 0

    def test_a_bundle_that_was_altered_where_it_lies_is_refused_as_ever(self) -> None:
        Path("se-test/model.onnx").write_bytes(b"another")
        done = run(*SE)
        assert (done.code, "was altered" in done.err) == (3, True), done

    @pytest.mark.parametrize("mode", [0o777, 0o1777])
    def test_a_folder_that_others_may_write_to(self, mode: int, root: Path) -> None:
        root.chmod(mode)
        done = run(*SE)
        assert not is_kept(done)
        assert done.err.count(f"the cache is not used: {root} may be written to by others") == 1
        assert run("cache").code == 3

    def test_a_link_to_a_folder(self, root: Path) -> None:
        root.rename(root.with_name("real"))
        root.symlink_to("real")
        done = run(*SE)
        assert not is_kept(done)
        assert f"the cache is not used: {root} is a link" in done.err

    def test_a_cache_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(place.FOLDER, "/proc/none/cache")
        done = run(*SE)
        assert not is_kept(done)
        assert done.err.count("the cache is not used: /proc/none/cache cannot be written") == 1
        assert "warning" not in run(*SE, "-q").err


@pytest.mark.slow
@pytest.mark.parametrize(
    "there", ["a stranger's file", "a file", "an altered bundle", "more than a bundle", "a folder more", "here"]
)
def test_what_is_never_replaced_is_refused_by_the_same_sentence(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_kept(run(*SE))
    target = Path("target")
    if there == "a file":
        target.write_text("mine")
    elif there == "a stranger's file":
        target.mkdir()
        (target / "thesis.tex").write_text("mine")
    elif there == "here":
        Path("se-test").rename(target)
        monkeypatch.chdir(target)
        target = Path()
    elif there == "a folder more":
        Path("se-test").rename(target)
        (target / "thesis").mkdir()
    else:
        Path("se-test").rename(target)
        name = "model.onnx" if there == "an altered bundle" else "thesis.tex"
        (target / name).write_text("mine")
    before = content(target) if target.is_dir() else target.read_bytes()
    kept_one, fresh = run(*SE, "-o", target, "-q"), run(*SE, "-o", target, "-q", "--no-cache")
    assert (kept_one.code, kept_one.err) == (fresh.code, fresh.err)
    assert kept_one.code == 3
    assert (content(target) if target.is_dir() else target.read_bytes()) == before


@pytest.mark.slow
def test_an_older_bundle_is_replaced(root: Path) -> None:
    assert not is_kept(run(*SE))
    assert not is_kept(run("se", "--preset", "test", "--no-bench", "--mutants", "none", "--fp16", "-o", "target"))
    assert is_kept(run(*SE, "-o", "target"))
    assert bundle.read(Path("target")).artifacts[0].precision == "float32"


@pytest.mark.slow
class TestShortcut:
    """The same words, without the command line."""

    @pytest.fixture(autouse=True)
    def first(self) -> None:
        subprocess.run([sys.executable, "-m", "attn_export", *SE], capture_output=True, check=True)

    def answer(self) -> str:
        program = [sys.executable, "-m", "attn_export", *SE]
        return subprocess.run(program, capture_output=True, text=True, check=True).stdout

    def test_defaults_of_a_project_count(self) -> None:
        assert KEPT in self.answer()
        for other in ("opset = 19", "cache = false"):
            Path("pyproject.toml").write_text(f"[tool.attn-export.export]\n{other}\n")
            assert without_torch(*SE).returncode != 0, "it is not taken from the cache"

    def test_words_that_were_never_noted_cost_no_look_at_our_code(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        monkeypatch.setattr(house, "describe", lambda: {"asked": asked.append("house")})
        for words in (["list"], ["--help"], list(SE)):
            monkeypatch.setattr(sys, "argv", ["attn-export", *words])
            assert not shortcut.answered()
        assert asked == ["house"], "only what was noted is looked at, and was noted for another house"

    def test_a_note_that_was_altered_is_none(self, root: Path) -> None:
        (note,) = root.glob("*.note")
        note.write_text(note.read_text().replace("se", "eca"))
        assert KEPT in self.answer(), "read by the command line, and noted again"
        assert without_torch(*SE).returncode == 0


NET = """
import helper
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, helper.WIDTH, 1)

    def forward(self, x):
        return self.layer(x).relu()
"""


def make_net() -> None:
    Path("net.py").write_text(NET)
    Path("helper.py").write_text("WIDTH = 4")
    torch = pytest.importorskip("torch")
    state = {"layer.weight": torch.ones(4, 3, 1, 1), "layer.bias": torch.zeros(4)}
    torch.save(state, "w.pt")


def make_graph() -> None:
    from onnx import TensorProto, helper

    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 4, 4]) for name, c in (("x", 3), ("y", 2))]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)


def parameters(subject: str, **more: Any) -> dict[str, Any]:
    known = {"subject": subject, "preset": None, "weights": None, "data": None, "mutants": "fast", "output": None}
    return {**known, "cache": True, "quiet": False, "verbose": 0, "as_json": False, **more}


def keep(given: dict[str, Any]) -> None:
    """Keep what a run of the job would, without the work."""
    time.sleep(0.05)  # what was written just now is taken for written meanwhile
    job = kept.job(given)
    assert job is not None
    with as_before(Path.cwd()):
        with job.loading():
            if ":" in given["subject"]:
                sources.load(SourceOptions(text=given["subject"], inputs=("x:1x3x4x4",), weights=given["weights"]))
        folder = Path("made")
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(b"model")
        (folder / "manifest.json").write_text(json.dumps({"files": {"model.onnx": ""}}))
        job.keep(ACCOUNT, folder, (), "net")


def found(given: dict[str, Any]) -> bool:
    job = kept.job(given)
    assert job is not None
    return job.found(job.key) is not None


def altered(name: str) -> Callable[[], None]:
    """One byte of a file, at the end; its size and what is said of its age stay."""

    def act() -> None:
        path = Path(name)
        before, was = path.read_bytes(), path.stat()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

    return act


@pytest.mark.parametrize(
    ("subject", "more", "change"),
    [
        ("net.py:Net", {}, altered("net.py")),
        ("net.py:Net", {}, altered("helper.py")),
        ("net:Net", {}, altered("helper.py")),
        ("net.py:Net", {}, lambda: Path("torch_extra.py").touch()),
        ("net.py:Net", {"weights": Path("w.pt")}, altered("w.pt")),
        ("net.py:Net", {"data": Path("pictures")}, altered("pictures/b.npy")),
        ("net.py:Net", {"data": Path("pictures")}, lambda: Path("pictures/c.npy").write_bytes(b"c")),
        ("net.py:Net", {"labels": Path("pictures/b.npy")}, altered("pictures/b.npy")),
        ("m.onnx", {}, altered("m.onnx")),
        ("m.onnx", {}, altered("m.data")),
        ("se", {"a_new_file": Path("w.pt")}, altered("w.pt")),
    ],
)
def test_what_a_result_depends_on(
    subject: str, more: dict[str, Any], change: Callable[[], None], tmp_path: Path
) -> None:
    make_net()
    make_graph()
    Path("pictures").mkdir()
    for name in "ab":
        Path(f"pictures/{name}.npy").write_bytes(name.encode())
    given = parameters(subject, **more)
    keep(given)
    assert found(given)
    change()
    assert not found(given)


@pytest.mark.parametrize(
    "more", [{"mutants": "full"}, {"preset": "test"}, {"seed": 1}, {"an_option_to_come": True}, {"opset": 19}]
)
def test_every_option_counts(more: dict[str, Any]) -> None:
    keep(parameters("se"))
    assert found(parameters("se"))
    assert not found(parameters("se", **more))


@pytest.mark.parametrize("more", [{"quiet": True}, {"verbose": 2}, {"as_json": True}, {"output": Path("x")}])
def test_but_for_those_that_only_say_it_otherwise(more: dict[str, Any]) -> None:
    keep(parameters("se"))
    assert found(parameters("se", **more))


def test_code_of_ours_and_versions_count(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(parameters("se"))
    for change in ({"code": "another line"}, {"installed": ["torch-2.14.0.dist-info"]}, {"machine": {"cores": [1]}}):
        with monkeypatch.context() as patch:
            other = house.describe() | change
            patch.setattr(house, "describe", lambda other=other: other)
            assert not found(parameters("se"))
    assert found(parameters("se"))


def test_a_branch_and_back_finds_both(root: Path) -> None:
    make_net()
    keep(given := parameters("net.py:Net"))
    Path("helper.py").write_text("WIDTH = 5")
    assert not found(given)
    keep(given)
    assert found(given)
    Path("helper.py").write_text("WIDTH = 4")
    assert found(given)
    assert len(store.listed(root)) == 2


def test_a_file_that_is_edited_during_the_run_keeps_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_net()
    time.sleep(0.05)
    given = parameters("net.py:Net")
    job = Job(root, given, house.describe(), said=1)
    with job.loading():
        sources.load(SourceOptions(text="net.py:Net", inputs=("x:1x3x4x4",)))
    altered("helper.py")()
    Path("made").mkdir()
    Path("made/manifest.json").write_text('{"files": {}}')
    job.keep(ACCOUNT, Path("made"), (), "net")
    assert not root.exists()


def test_weights_that_are_changed_during_the_run_keep_nothing(root: Path) -> None:
    make_net()
    time.sleep(0.05)
    job = kept.job(parameters("net.py:Net", weights=Path("w.pt")))
    assert job is not None
    altered("w.pt")()
    Path("made").mkdir()
    Path("made/manifest.json").write_text('{"files": {}}')
    job.keep(ACCOUNT, Path("made"), (), "net")
    assert not root.exists()


def test_a_network_that_asks_the_network_is_not_kept(root: Path) -> None:
    make_net()
    Path("helper.py").write_text("import socket\nsocket.getaddrinfo('localhost', 1)\nWIDTH = 4")
    keep(parameters("net.py:Net"))
    assert not root.exists()


class TestCommand:
    """``attn-export cache``."""

    def test_it_shows_and_clears(self, root: Path) -> None:
        assert "0 results, 0.0 MB of at most 2 GB" in run("cache").out
        keep(parameters("se"))
        found = run("cache", "--json").json
        assert found["folder"] == str(root)
        assert len(found["entries"]) == 1
        assert found["bytes"] > 0
        assert "1 result, " in run("cache").out
        assert "removed " in run("cache", "clear").out
        assert {path.name for path in root.iterdir()} == {"CACHEDIR.TAG"}
        assert run("cache", "clera").code == 2

    def test_it_says_where_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(place.FOLDER, "off")
        assert "there is no cache" in run("cache").out
        assert run("cache", "--json").json["folder"] is None


@pytest.mark.slow
def test_a_writer_that_refuses_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_kept(run(*SE))
    monkeypatch.setattr(writer, "_flush", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    done = run(*SE, "-o", "other")
    assert done.code == 3
    assert "cannot write the bundle" in done.err
    assert not Path("other").exists()
