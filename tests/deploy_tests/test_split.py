"""Files are divided by what they hold, read when they are needed, and their labels found by name or content."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attn_export.deploy_tests.data import inputs, labels
from attn_export.deploy_tests.data.split import CALIBRATION, FEWEST, HELD_OUT, Split, found, split
from attn_export.errors import LoadError, UsageError
from attn_export.types import TensorSpec

X = TensorSpec("x", "float32", ("b", 3, 4, 4))


def write(folder: Path, names: Iterator[str] | list[str], start: int = 0) -> Path:
    for index, name in enumerate(names, start):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, np.full((3, 4, 4), index, np.float32))
    return folder


def sets(made: Split) -> tuple[dict[str, str], ...]:
    return made.calibration.record(), made.held_out.record(), made.test.record()


def test_no_file_is_in_two_sets_and_none_is_lost(tmp_path: Path) -> None:
    made = split(write(tmp_path, [f"{i}.npy" for i in range(40)]), [X])
    assert [len(one) for one in sets(made)] == [20, 10, 10]
    assert len({key for one in sets(made) for key in one.values()}) == 40
    assert made.summary() == "20 files to calibrate, 10 to choose on, 10 to judge by"


def test_sets_follow_from_contents_and_not_from_names(tmp_path: Path) -> None:
    one = split(write(tmp_path / "one", [f"{i}.npy" for i in range(20)]), [X])
    other = split(write(tmp_path / "other", [f"{99 - i}.npy" for i in range(20)]), [X])
    assert [set(kind.values()) for kind in sets(one)] == [set(kind.values()) for kind in sets(other)]


def test_equal_files_count_once_so_that_none_is_learnt_from_and_judged(tmp_path: Path) -> None:
    write(tmp_path, [f"{i}.npy" for i in range(20)])
    for index in range(20):
        shutil.copy(tmp_path / f"{index}.npy", tmp_path / f"copy{index}.npy")
    made = split(tmp_path, [X])
    assert sum(map(len, sets(made))) == 20
    assert "20 hold the same as another" in made.summary()


def test_large_sets_leave_the_rest_to_judge_by(tmp_path: Path) -> None:
    made = split(write(tmp_path, [f"{i}.npy" for i in range(4 * HELD_OUT + 40)]), [X])
    assert len(made.held_out) == HELD_OUT
    assert len(made.calibration) <= CALIBRATION
    assert len(made.test) == 4 * HELD_OUT + 40 - HELD_OUT - len(made.calibration)
    assert len(made.cases().feeds) == inputs.LIMIT


def test_too_few_or_no_folder_says_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, [f"{i}.npy" for i in range(FEWEST - 1)])
    with pytest.raises(UsageError, match=r"at least 16 different files in --data.*got 15"):
        split(tmp_path, [X])
    with pytest.raises(UsageError, match="--int8 needs a folder"):
        split(tmp_path / "0.npy", [X])
    for index in range(20):
        (tmp_path / f"{index}.png").write_bytes(bytes([index]))
    with pytest.raises(UsageError, match="is an image: declare"):
        split(tmp_path, [X])


def test_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    made = split(write(tmp_path, [f"{i}.npy" for i in range(16)]), [X])
    first = made.calibration.names[0]
    assert made.calibration[0]["x"].shape == (1, 3, 4, 4)
    (tmp_path / first).unlink()
    assert made.calibration[1]["x"].dtype == np.float32
    with pytest.raises(LoadError):
        made.calibration[0]


def test_a_file_of_several_cases_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [f"{i}.npy" for i in range(16)])
    one = np.zeros((1, 3, 4, 4), np.float32)
    np.savez(tmp_path / "two.npz", **{"a.x": one, "b.x": one})
    made = split(tmp_path, [X])
    with pytest.raises(LoadError, match="expected one case, got 2"):
        [list(one) for one in (made.calibration, made.held_out, made.test)]


def test_cases_are_the_first_of_the_test_set_with_their_hashes(tmp_path: Path) -> None:
    made = split(write(tmp_path, [f"k{i % 4}/{i}.npy" for i in range(20)]), [X])
    cases = made.cases()
    assert list(cases.files.values()) == list(made.test.hashes)[: len(cases.files)]
    assert all(name.startswith("data: k") for name in cases.feeds)


def test_folders_in_the_folder_are_looked_into_once(tmp_path: Path) -> None:
    write(tmp_path, ["a.npy", "cat/b.npy", "cat/deep/c.npy"])
    assert found(tmp_path) == ("a.npy", "cat/b.npy")


def test_labels_of_a_list_by_name(tmp_path: Path) -> None:
    made = split(write(tmp_path / "data", [f"cat/{i}.npy" for i in range(20)]), [X])
    listed = tmp_path / "labels.csv"
    listed.write_text("file,label\n" + "\n".join(f"cat/{i}.npy,{i % 3}" for i in range(20)))
    got = labels.read(listed, made.test)
    assert got == {name: int(Path(name).stem) % 3 for name in made.test.names}
    listed.write_text("\n".join(f"{i}.npy,{i % 3}" for i in range(20)))
    assert labels.read(listed, made.test) == got


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.npy,cat", "row 1: expected file,label"),
        ("0.npy,1,2", "row 1: expected file,label"),
        ("0.npy,-1", "row 1: expected file,label"),
        ("0.npy,1\n0.npy,2", "has the labels 1 and 2"),
        ("other.npy,1", "got none of the 5"),
        ("", "got none of the 5"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, text: str, why: str) -> None:
    made = split(write(tmp_path / "data", [f"{i}.npy" for i in range(20)]), [X])
    listed = tmp_path / "labels.csv"
    listed.write_text(text)
    with pytest.raises(UsageError, match=why):
        labels.read(listed, made.test)


def test_labels_of_folders_by_content(tmp_path: Path) -> None:
    made = split(write(tmp_path / "data", [f"{i}.npy" for i in range(20)]), [X])
    for index in range(20):
        place = tmp_path / "classes" / ("cat" if index % 2 else "dog") / f"other{index}.npy"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "data" / f"{index}.npy", place)
    assert labels.read(tmp_path / "classes", made.test) == {
        name: int(int(Path(name).stem) % 2 == 0) for name in made.test.names
    }


def test_folders_called_by_numbers_are_these_classes(tmp_path: Path) -> None:
    made = split(write(tmp_path, [f"{10 + i % 3}/{i}.npy" for i in range(20)]), [X])
    assert labels.read(tmp_path, made.test) == {name: int(name.split("/")[0]) for name in made.test.names}
    write(tmp_path, ["cat/x.npy"], 50)
    with pytest.raises(UsageError, match="some folders are numbers"):
        labels.read(tmp_path, made.test)


def test_a_picture_of_two_classes_is_refused(tmp_path: Path) -> None:
    made = split(write(tmp_path, [f"{i % 3}/{i}.npy" for i in range(20)]), [X])
    shutil.copy(tmp_path / "0" / "0.npy", tmp_path / "1" / "again.npy")
    with pytest.raises(UsageError, match="lies in the folders of two classes"):
        labels.read(tmp_path, made.test)
