"""Where a bundle is written: over nothing that is not ours, by one run at a time, and readers see one or the other."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from attn_export import bundle
from attn_export.bundle import Case, reader, writer
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.open_bundle import opened
from attn_export.errors import BundleError, WriteError
from attn_export.process import activity
from tests.test_bundle import CONTENT, edit, write
from tests.tools.run import run

ROOT = Path(__file__).parents[1]
WEB_APP = {"name": "My app", "start_url": "/", "display": "standalone", "icons": []}
EXTENSION = {"manifest_version": 3, "name": "Blocker", "version": "1.0", "files": {"a.js": "x"}}


def everything(folder: Path) -> dict[str, bytes | str | None]:
    """What lies in a folder: bytes of files, targets of links, None for folders."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def put(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def altered(folder: Path) -> None:
    (folder / bundle.REPORT).write_text("{}")
    bundle.write_manifest(folder, CONTENT)
    (folder / bundle.REPORT).write_text('{"mine": 1}')


OTHERS: dict[str, Callable[[Path], object]] = {
    "a web app": lambda p: put(p, manifest_json=json.dumps(WEB_APP), index_html="<p>"),
    "a browser extension": lambda p: put(p, manifest_json=json.dumps(EXTENSION), a_js="1"),
    "a schema 2 of somebody else's": lambda p: put(p, manifest_json='{"schema_version": 3}'),
    "an empty object": lambda p: put(p, manifest_json="{}"),
    "no JSON": lambda p: put(p, manifest_json="{"),
    "files alone": lambda p: put(p, thesis_tex="years"),
    "a bundle of an older schema": lambda p: edit(write(p), schema=1),
    "a bundle of a newer schema": lambda p: edit(write(p), schema=3),
    "a bundle with notes in it": lambda p: (write(p) / "notes.txt").write_text("mine"),
    "a bundle with a hidden file in it": lambda p: (write(p) / ".notes").write_text("mine"),
    "a bundle with a folder in it": lambda p: (write(p) / "mine").mkdir(),
    "a bundle with a link in it": lambda p: (write(p) / "mine").symlink_to("/etc"),
    "a bundle with a repository in it": lambda p: put(write(p) / ".git", HEAD="ref"),
    "a bundle with another model": lambda p: (write(p) / bundle.MODEL).write_bytes(b"mine"),
    "a bundle with another report": lambda p: altered(write(p)),
    "a bundle without its model": lambda p: (write(p) / bundle.MODEL).unlink(),
    "a file": lambda p: p.write_text("mine"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_not_an_unaltered_bundle_of_ours_is_not_touched(what: str, tmp_path: Path) -> None:
    target = tmp_path / "there"
    OTHERS[what](target)
    before = everything(tmp_path)
    done = run("se", "--preset", "test", "-q", "-o", target)
    assert done.code == 3, (done.out, done.err)
    assert str(target) in done.err
    assert "choose another place with -o" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert everything(tmp_path) == before


def test_an_empty_folder_and_a_signed_bundle_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    write(tmp_path / "two", b"one")
    (tmp_path / "two" / bundle.SIGNATURE).write_text("signature")
    write(tmp_path / "two", b"two")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        (bundle.MODEL, bundle.CASES, bundle.MANIFEST)
    )
    assert os.listdir(tmp_path) == ["two"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that somebody needs."""
    folder = tmp_path / "home" / "work"
    folder.mkdir(parents=True)
    put(folder, thesis_tex="years")
    put(folder / ".git", HEAD="ref")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


@pytest.mark.parametrize("ours", ["files", "a bundle", "nothing"])
@pytest.mark.parametrize(
    "target", [".", "..", "../work", "link", "../../link", "/", "$HOME", "$HOME/", "$HOME/work/.", "../../home"]
)
def test_where_somebody_stands_or_lives_is_never_replaced(target: str, ours: str, work: Path) -> None:
    if ours != "files":
        shutil.rmtree(work / ".git")
        (work / "thesis.tex").unlink()
    (work / "link").symlink_to("../work")
    (work.parents[1] / "link").symlink_to("home")
    if ours == "a bundle":  # as whole as can be
        (work / bundle.MODEL).write_bytes(b"model")
        bundle.write_cases(work / bundle.CASES, (Case("a", {"x": np.ones((1, 2), "f4")}, {}, {}),))
        (work / "link").unlink()
        bundle.write_manifest(work, CONTENT)
        target = target.replace("link", ".") if target == "link" else target
    before = everything(work.parents[1])
    done = run("se", "--preset", "test", "-q", "-o", os.path.expandvars(target))
    assert done.code == 3, (done.out, done.err)
    assert "is never replaced by a bundle; name a new folder with -o" in done.err
    assert everything(work.parents[1]) == before


def test_without_a_home_and_without_a_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    write(tmp_path / "two")
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    with pytest.raises(WriteError, match="your home folder"):
        bundle.may_write(home)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    write(tmp_path / "two", b"next")
    with pytest.raises(WriteError, match="cannot write"):
        bundle.may_write(Path("relative"))


def test_another_path_to_where_somebody_stands_is_the_same_place(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a bind mount is, which no link gives away."""
    monkeypatch.setattr(writer, "_behind_links", lambda target: Path("/proc/self/cwd"))
    with pytest.raises(WriteError, match="is the working directory"):
        bundle.may_write(Path("elsewhere"))


@pytest.mark.parametrize("older", ["a bundle", "nothing", "an empty folder"])
def test_a_link_is_followed_and_stays_the_one_it_was(tmp_path: Path, older: str) -> None:
    real, link = tmp_path / "real" / "two", tmp_path / "link"
    if older != "nothing":
        real.mkdir(parents=True)
    if older == "a bundle":
        write(real, b"old")
    link.symlink_to("real/two")
    write(link, b"new")
    assert bundle.read(real).model.read_bytes() == bundle.read(link).model.read_bytes() == b"new"
    assert str(link.readlink()) == "real/two"
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    assert os.listdir(tmp_path / "real") == ["two"]


def test_a_link_to_something_else_or_to_itself_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "mine", thesis_tex="years")
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "loop").symlink_to("loop")
    before = everything(tmp_path)
    for name in ("link", "loop"):
        with pytest.raises(WriteError):
            write(tmp_path / name)
    assert everything(tmp_path) == before


def test_what_comes_there_meanwhile_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_exchange", lambda *_: pytest.fail("not even for a moment"))
    with pytest.raises(WriteError, match="is not a bundle"), bundle.writing(tmp_path / "two") as folder:
        (folder / bundle.MODEL).write_bytes(b"new")
        put(tmp_path / "two", thesis_tex="years")
    assert everything(tmp_path) == {"two": None, "two/thesis.tex": b"years"}


def test_what_comes_there_at_the_last_moment_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look and the step: here the look passes whatever is there."""
    write(tmp_path / "two", b"old")
    put(tmp_path / "two", thesis_tex="years")
    before, look = everything(tmp_path), writer._replaceable
    monkeypatch.setattr(writer, "_replaceable", lambda place, called=None: called and look(place, called))
    with pytest.raises(WriteError, match=r"two exists and is not replaced \(.*two holds 'thesis.tex'"):
        write(tmp_path / "two", b"new")
    assert everything(tmp_path) == before


def test_where_folders_cannot_change_places_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_exchange", lambda one, other: False)
    write(tmp_path / "two", b"old")
    write(tmp_path / "two", b"new")
    assert os.listdir(tmp_path) == ["two"]
    rename = Path.rename

    def died(self: Path, target: Path) -> Path:
        if target.name == "two":
            raise OSError(errno.EIO, "gone", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", died)  # after the older one was moved aside
    with pytest.raises(WriteError, match="gone"):
        write(tmp_path / "two", b"next")
    assert not (tmp_path / "two").exists()
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(RuntimeError), bundle.writing(tmp_path / "two"):
        assert bundle.read(tmp_path / "two").model.read_bytes() == b"new", "the next run puts it back first"
        raise RuntimeError
    assert os.listdir(tmp_path) == ["two"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_while_the_older_one_is_removed_leaves_nothing_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(writer, "_exchange", lambda one, other: False)
    write(tmp_path / "two", b"old")

    def killed(folder: Path, **_: object) -> None:
        (folder / bundle.MODEL).unlink(missing_ok=True)

    monkeypatch.setattr(writer.shutil, "rmtree", killed)
    write(tmp_path / "two", b"new")
    assert len(os.listdir(tmp_path)) == 2
    monkeypatch.undo()
    write(tmp_path / "two", b"next")
    assert os.listdir(tmp_path) == ["two"]


# Two writers.

CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from attn_export import bundle
with bundle.writing(Path(sys.argv[1])) as folder:
    (folder / "model.onnx").write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, in the midst of writing."""
    command = [sys.executable, "-c", CHILD.format(root=str(ROOT)), str(tmp_path / "two")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def test_the_second_writer_says_so_at_once_and_a_dead_one_is_swept(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    began = time.monotonic()
    with pytest.raises(WriteError, match=r"another run is writing .*two; wait for it, or choose another place with -o"):
        write(tmp_path / "two")
    assert time.monotonic() - began < 2
    (left,) = os.listdir(tmp_path)
    assert (tmp_path / left / "model.onnx").read_bytes() == b"half", "the living one is not swept"
    write(tmp_path / "two.b")
    write(tmp_path / "tw")
    assert left in os.listdir(tmp_path), "nor by runs for other names"
    other.send_signal(signal.SIGKILL)
    other.wait()
    write(tmp_path / "two.b", b"again")
    assert left in os.listdir(tmp_path)
    (tmp_path / ".two.b.0123abcd.partial").mkdir()
    write(tmp_path / "two")
    assert sorted(os.listdir(tmp_path)) == [".two.b.0123abcd.partial", "tw", "two", "two.b"]
    write(tmp_path / "two.b")
    assert sorted(os.listdir(tmp_path)) == ["tw", "two", "two.b"]


def test_whose_a_folder_is_does_not_depend_on_process_numbers(
    tmp_path: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen from another container: no process of that number anywhere."""
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(WriteError, match="another run is writing"):
        write(tmp_path / "two")


def test_a_folder_that_stays_locked_ends_no_run_in_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PATIENCE", 0.05)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(WriteError, match=r"another program keeps .* locked"):
        write(tmp_path / "two")
    os.close(descriptor)
    write(tmp_path / "two")


def test_long_and_odd_names_are_names(tmp_path: Path) -> None:
    for name in ("é" * 120, "a[b]*?", " ", "-o", "\\d", "x" * 255):
        write(tmp_path / name)
        write(tmp_path / name, b"next")
        assert bundle.read(tmp_path / name).model.read_bytes() == b"next"
    with pytest.raises(WriteError, match=r"cannot write the bundle .*: File name too long"):
        write(tmp_path / ("x" * 256))
    assert len(os.listdir(tmp_path)) == 6


def test_the_parent_process_knows_what_is_half_and_what_is_written(tmp_path: Path) -> None:
    with bundle.writing(tmp_path / "two") as folder:
        assert str(folder) in activity.now().partial
        (folder / "model.onnx").touch()
        bundle.write_cases(folder / bundle.CASES, generation(0)[1:])
        bundle.write_manifest(folder, CONTENT)
    assert not activity.now().partial
    assert activity.now().written[-1] == str(tmp_path / "two")


def test_a_failure_that_has_nothing_to_do_with_the_disk_is_not_called_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), bundle.writing(tmp_path / "two"):
        (tmp_path / "weights").read_bytes()
    with pytest.raises(WriteError, match="No space left"), bundle.writing(tmp_path / "two"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not os.listdir(tmp_path)


# Readers beside a writer.


def generation(number: int) -> tuple[bytes, Case]:
    """The model and the case of one writing: both say which."""
    value = np.full((1, 2), number + 1)
    return str(number).encode() * 1000, Case(
        str(number), {"x": value.astype("f4")}, {"y": value.astype("f8")}, {"y": 0}
    )


def _write_on(target: Path, until: float) -> None:
    number = 0
    while time.monotonic() < until:
        model, case = generation(number)
        with bundle.writing(target) as folder:
            (folder / bundle.MODEL).write_bytes(model)
            bundle.write_cases(folder / bundle.CASES, (case,))
            bundle.write_manifest(folder, {**CONTENT, "subject": {"name": str(number)}})
        number += 1


def test_a_reader_beside_a_writer_sees_one_writing_entirely(tmp_path: Path) -> None:
    target, seconds = tmp_path / "two", 120.0
    context = multiprocessing.get_context("fork")
    writing = context.Process(target=_write_on, args=(target, time.monotonic() + seconds), daemon=True)
    writing.start()
    try:
        while not (target / bundle.MANIFEST).exists():
            time.sleep(0.001)
        seen = set()
        for _ in range(1000):
            whole = bundle.read(target)
            _, case = generation(int(whole.name))
            assert whole.cases[0].name == whole.name
            assert np.array_equal(whole.cases[0].reference["y"], case.reference["y"])
            seen.add(whole.name)
        assert writing.is_alive()
        assert len(seen) > 20, "there was a writer"
    finally:
        writing.kill()
        writing.join()


def test_a_reader_that_a_writer_overtakes_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here after all hashes were right, and before the cases are read."""
    target, read_cases, left = write(tmp_path / "two"), reader.stored.read_cases, [b"second", b"third"]

    def overtaken(file: Path) -> tuple[Case, ...]:
        if left:
            write(target, left.pop(0))
        return read_cases(file)

    monkeypatch.setattr(reader.stored, "read_cases", overtaken)
    whole = bundle.read(target)
    assert not left
    assert whole.digest == bundle.digest(target)
    bundle.unchanged(whole)


def test_a_bundle_that_is_written_for_ever_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, read_cases = write(tmp_path / "two"), reader.stored.read_cases
    monkeypatch.setattr(reader.stored, "read_cases", lambda file: (write(target), read_cases(file))[1])
    monkeypatch.setattr(reader, "_TRIES", 3)
    with pytest.raises(BundleError, match="is being written again and again"):
        bundle.read(target)


def test_a_bundle_that_is_replaced_while_a_backend_opens_it_is_not_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bundle.read(write(tmp_path / "two"))
    backend = BACKENDS["onnxruntime"]

    class Opens:
        """The runtime, before and after which something happens."""

        def __enter__(self) -> object:
            write(tmp_path / "two", b"another")
            return lambda feeds: {}

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(type(backend), "open", lambda self, model, options: Opens())
    with (
        pytest.raises(BundleError, match=r"two was replaced while it was in use.*run this again"),
        opened(whole, "onnxruntime"),
    ):
        pytest.fail("it was opened")


def test_the_same_bytes_at_the_same_place_are_the_same_bundle(tmp_path: Path) -> None:
    whole = bundle.read(write(tmp_path / "two"))
    bundle.unchanged(whole)
    shutil.copytree(tmp_path / "two", tmp_path / "copy")
    shutil.rmtree(tmp_path / "two")
    with pytest.raises(BundleError, match="was replaced"):
        bundle.unchanged(whole)
    (tmp_path / "copy").rename(tmp_path / "two")
    assert bundle.read(tmp_path / "two").digest == whole.digest
