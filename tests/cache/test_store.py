"""Entries: whole or not at all, believed by their hashes alone, and no more of them than there is room for."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from attn_export.cache import notes, place, store
from attn_export.cache.needs import Needs
from attn_export.cache.store import DamagedError, GoneError
from attn_export.process import folders

KEY = 40 * "a"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def result(tmp_path: Path, content: bytes = b"weights", name: str = "model") -> dict[str, Path]:
    folder = tmp_path / f"result-{name}"
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "model").write_bytes(content)
    (folder / "sub" / "twin").write_bytes(content)
    return {"model": folder / "model", "sub/twin": folder / "sub" / "twin"}


def put(root: Path, tmp_path: Path, key: str = KEY, **more: Any) -> store.Entry:
    content = result(tmp_path, more.pop("content", b"weights"))
    assert store.put(root, key, more.pop("needs", Needs()), content, {"said": "this"}) == ""
    return next(store.found(root, key))


def test_what_was_put_in_comes_out(root: Path, tmp_path: Path) -> None:
    entry = put(root, tmp_path)
    assert entry.facts == {"said": "this"}
    assert root.stat().st_mode & 0o777 == entry.folder.stat().st_mode & 0o777 == 0o700
    target = tmp_path / "out"
    target.mkdir()
    store.take(entry, target)
    assert (target / "model").read_bytes() == (target / "sub" / "twin").read_bytes() == b"weights"
    assert not list(store.found(root, 40 * "b"))


def test_a_copy_is_no_link_into_the_cache(root: Path, tmp_path: Path) -> None:
    entry = put(root, tmp_path)
    (tmp_path / "out").mkdir()
    store.take(entry, tmp_path / "out")
    (tmp_path / "out" / "model").write_bytes(b"changed")
    (tmp_path / "result-model" / "model").write_bytes(b"changed, too")
    (tmp_path / "again").mkdir()
    store.take(entry, tmp_path / "again")
    assert (tmp_path / "again" / "model").read_bytes() == b"weights"


def blob(entry: store.Entry) -> Path:
    return entry.folder / entry.files["model"]


def replaced_by_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replaced_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b"Weights"),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        replaced_by_a_link,
        replaced_by_a_pipe,
    ],
    ids=["altered", "empty", "gone", "a link", "a pipe"],
)
def test_a_damaged_file_is_seen(harm: Any, root: Path, tmp_path: Path) -> None:
    entry = put(root, tmp_path)
    harm(blob(entry))
    (tmp_path / "out").mkdir()
    with pytest.raises(DamagedError):
        store.take(entry, tmp_path / "out")


def test_an_altered_index_is_no_entry_and_is_removed(root: Path, tmp_path: Path) -> None:
    entry = put(root, tmp_path)
    index = entry.folder / store.INDEX
    index.write_text(index.read_text().replace("this", "that"))
    assert not list(store.found(root, KEY))
    assert not entry.folder.exists()


def test_an_index_cut_short_is_no_entry(root: Path, tmp_path: Path) -> None:
    entry = put(root, tmp_path)
    index = entry.folder / store.INDEX
    index.write_bytes(index.read_bytes()[:-20])
    assert not list(store.found(root, KEY))


def test_a_name_that_leads_out_is_refused_although_the_hash_fits(root: Path, tmp_path: Path) -> None:
    assert store.put(root, KEY, Needs(), {"../planted": result(tmp_path)["model"]}, {}) == ""
    (tmp_path / "out").mkdir()
    with pytest.raises(DamagedError, match="outside"):
        store.take(next(store.found(root, KEY)), tmp_path / "out")
    assert not (tmp_path / "planted").exists()


def test_an_entry_that_was_removed_meanwhile_is_gone(root: Path, tmp_path: Path) -> None:
    entry = put(root, tmp_path)
    shutil.rmtree(entry.folder)
    (tmp_path / "out").mkdir()
    with pytest.raises(GoneError):
        store.take(entry, tmp_path / "out")


def test_an_equal_need_replaces_and_another_stands_beside_it(root: Path, tmp_path: Path) -> None:
    put(root, tmp_path)
    put(root, tmp_path, content=b"newer")
    assert len(list(store.found(root, KEY))) == 1
    put(root, tmp_path, needs=Needs(files={"/x": "1"}))
    assert [entry.needs.files for entry in store.found(root, KEY)] == [{"/x": "1"}, {}]


def test_the_least_used_go_first_and_the_bound_holds(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(place.BOUND, "0.000050")
    made = {key: put(root, tmp_path, key=40 * key, content=os.urandom(15_000)) for key in "abc"}
    for age, key in enumerate("cab"):  # c was used last, b the longest ago
        os.utime(made[key].folder, (time.time() - 100 * (age + 1),) * 2)
    put(root, tmp_path, key=40 * "d", content=os.urandom(15_000))
    assert {entry.folder.name[0] for entry in store.listed(root)} == {"a", "c", "d"}
    store.used(made["a"])
    put(root, tmp_path, key=40 * "e", content=os.urandom(15_000))
    assert {entry.folder.name[0] for entry in store.listed(root)} == {"a", "d", "e"}
    assert sum(entry.size() for entry in store.listed(root)) <= 50_000


def test_what_is_larger_than_the_bound_is_not_put_in(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(place.BOUND, "0.000001")
    why = store.put(root, KEY, Needs(), result(tmp_path, os.urandom(2000)), {})
    assert why.startswith("it takes")
    assert not root.exists()


def test_a_full_disk_leaves_nothing_half(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"wei")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.shutil, "copyfile", full)
    why = store.put(root, KEY, Needs(), result(tmp_path), {})
    assert why == f"{root} cannot be written: No space left on device"
    assert {path.name for path in root.iterdir()} == {"CACHEDIR.TAG"}


def test_a_writer_that_is_killed_leaves_no_entry_and_the_next_one_sweeps(root: Path, tmp_path: Path) -> None:
    put(root, tmp_path, key=40 * "b")
    content = result(tmp_path)
    child = os.fork()
    if not child:
        store.shutil.copyfile = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
        store.put(root, KEY, Needs(), content, {})
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path for path in root.iterdir() if path.name.endswith(".partial")]
    assert not list(store.found(root, KEY))
    put(root, tmp_path)
    assert not [path for path in root.iterdir() if path.name.endswith(".partial")]


def test_an_entry_is_the_very_folder_that_was_filled(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = []

    def claim(folder: Path) -> int | None:
        filled.append(folder.stat().st_ino)
        return claimed(folder)

    claimed = folders.claim
    monkeypatch.setattr(folders, "claim", claim)
    assert [put(root, tmp_path).folder.stat().st_ino] == filled, "moved in one step, and not copied into its place"


def test_a_writer_that_lives_is_left_alone(root: Path, tmp_path: Path) -> None:
    put(root, tmp_path)
    partial = root / f".{16 * 'f'}.partial"
    partial.mkdir()
    child = os.fork()
    if not child:
        folders.claim(partial)
        (tmp_path / "claimed").touch()
        time.sleep(60)
        os._exit(0)
    while not (tmp_path / "claimed").exists():
        time.sleep(0.01)
    put(root, tmp_path, key=40 * "b")
    assert partial.exists()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    put(root, tmp_path, key=40 * "c")
    assert not partial.exists()


def test_two_writers_at_once_make_whole_entries(root: Path, tmp_path: Path) -> None:
    content = result(tmp_path, os.urandom(200_000))
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            for turn in range(10):
                store.put(root, KEY, Needs(), content, {"writer": number, "turn": turn})
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0, 0]
    left = list(store.found(root, KEY))
    assert left
    for index, entry in enumerate(left):
        (tmp_path / f"out{index}").mkdir()
        store.take(entry, tmp_path / f"out{index}")
    assert not [path for path in root.iterdir() if path.name.endswith(".partial")]


def test_a_folder_that_is_not_to_be_believed_gets_nothing(root: Path, tmp_path: Path) -> None:
    root.mkdir()
    root.chmod(0o777)
    assert store.put(root, KEY, Needs(), result(tmp_path), {}) == f"{root} may be written to by others"
    assert not list(root.iterdir())


def test_clearing_leaves_what_is_not_ours(root: Path, tmp_path: Path) -> None:
    put(root, tmp_path)
    notes.put(root, KEY, {"a": 1})
    (root / "thesis.tex").write_text("mine")
    (root / f"{KEY}-notes").mkdir()
    assert store.clear(root) > 0
    assert {path.name for path in root.iterdir()} == {"CACHEDIR.TAG", "thesis.tex", f"{KEY}-notes"}


def test_a_note_is_believed_by_its_hash(root: Path, tmp_path: Path) -> None:
    put(root, tmp_path)
    notes.put(root, KEY, {"a": 1})
    assert notes.find(root, KEY) == {"a": 1}
    assert notes.find(root, 40 * "b") is None
    file = next(root.glob("*.note"))
    file.write_text('{"a": 2}')
    assert notes.find(root, KEY) is None
    assert not file.exists()


def test_a_later_note_stands_in_place_of_an_earlier_one(root: Path, tmp_path: Path) -> None:
    put(root, tmp_path)
    for number in range(3):
        notes.put(root, KEY, number)
        assert notes.find(root, KEY) == number
    assert len(list(root.glob("*.note"))) == 1


def test_a_note_in_a_folder_of_others_is_not_believed(root: Path, tmp_path: Path) -> None:
    put(root, tmp_path)
    notes.put(root, KEY, {"a": 1})
    root.chmod(0o777)
    assert notes.find(root, KEY) is None


def test_notes_are_few(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root, tmp_path)
    monkeypatch.setattr(notes, "_COUNT", 3)
    for number in range(6):
        notes.put(root, 40 * str(number), number)
    assert len(list(root.glob("*.note"))) == 3
