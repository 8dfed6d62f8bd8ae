"""Where the cache lies, and when nothing in it is believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attn_export.cache import place
from attn_export.errors import UsageError


def test_the_folder_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(place.FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert place.folder() == tmp_path / "attn-export" / "results"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place.folder() == tmp_path / ".cache" / "attn-export" / "results"
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "own"))
    assert place.folder() == tmp_path / "own"
    monkeypatch.setenv(place.FOLDER, "off")
    assert place.folder() is None
    monkeypatch.setenv(place.FOLDER, "somewhere")
    with pytest.raises(UsageError, match="expected an absolute path, or off"):
        place.folder()


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf"])
def test_a_bound_that_is_no_number_of_gigabytes_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(place.BOUND, "0.5")
    assert place.bound() == 500_000_000
    monkeypatch.setenv(place.BOUND, text)
    with pytest.raises(UsageError, match="expected a number of gigabytes"):
        place.bound()


def test_a_folder_of_ones_own_is_believed(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    assert place.fault(own) == ""


@pytest.mark.parametrize("mode", [0o777, 0o707, 0o1777])
def test_a_folder_that_others_may_write_to_is_not(mode: int, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    assert place.fault(tmp_path / "open") == "may be written to by others"


def test_a_link_and_a_file_are_not(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").touch()
    assert place.fault(tmp_path / "link") == "is a link"
    assert place.fault(tmp_path / "file") == "is no folder"


def test_nor_is_one_that_others_can_change_for_another(tmp_path: Path) -> None:
    inner = tmp_path / "open" / "cache"
    inner.mkdir(parents=True, mode=0o700)
    (tmp_path / "open").chmod(0o777)
    assert place.fault(inner) == f"lies below {tmp_path / 'open'}, which others may write to"
    (tmp_path / "open").chmod(0o1777)  # as /tmp is: each removes their own
    assert place.fault(inner) == ""


def test_nor_is_one_behind_a_link_that_others_can_turn(tmp_path: Path) -> None:
    (tmp_path / "real" / "cache").mkdir(parents=True, mode=0o700)
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "way").symlink_to(tmp_path / "real")
    (tmp_path / "way").symlink_to("open/way")
    (tmp_path / "open").chmod(0o777)
    assert "which others may write to" in place.fault(tmp_path / "way" / "cache")
    (tmp_path / "open").chmod(0o755)
    assert place.fault(tmp_path / "way" / "cache") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "theirs" / "cache").mkdir(parents=True, mode=0o700)
    os.chown(tmp_path / "theirs", 4242, 4242)
    assert place.fault(tmp_path / "theirs") == "belongs to another user"
    assert place.fault(tmp_path / "theirs" / "cache").endswith("which belongs to another user")


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match=r"links|Too many"):
        place.fault(tmp_path / "a" / "cache")
