"""``--labels``: which class each image shows.

    labels.csv    file,label          names as in --data, or the file's own; labels are numbers of classes from 0
    folder        one folder a class  by number where every folder is called by one, else in the order of their names

Files of a folder are known by their content, so that it may be --data itself or another copy of it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from attn_export.deploy_tests.data import split
from attn_export.deploy_tests.data.split import Files
from attn_export.errors import LoadError, UsageError
from attn_export.process import activity
from attn_export.untrusted import arrays, files
from attn_export.untrusted.text import few

#: Bytes of a list, and classes.
MOST, CLASSES = 256 * files.MB, 1_000_000


def read(path: Path, images: Files) -> dict[str, int]:
    """Give the labels of those ``images`` that have one, by their names.

    Raises:
        UsageError: a label is none, or none of the images has one.
        LoadError: the list or folder cannot be read.
    """
    found = _of_folder(path, images) if path.is_dir() else _of_list(path, images)
    if not found:
        raise UsageError(
            f"--labels {path}: expected the labels of files in {images.root}, such as {images.names[0]}; got none of"
            f" the {len(images)} that are kept to judge by"
        )
    return found


def _of_list(path: Path, images: Files) -> dict[str, int]:
    content = files.read(path, MOST, LoadError)
    try:
        rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"))) if row]
    except (ValueError, csv.Error) as error:
        raise LoadError(f"{path} cannot be read as a list of file,label: {error}") from error
    if rows and [word.strip().lower() for word in rows[0][:2]] == ["file", "label"]:
        rows = rows[1:]
    given: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        label = row[1].strip() if len(row) == 2 else ""
        if not label.isascii() or not label.isdigit() or int(label) >= CLASSES:
            raise UsageError(
                f"--labels {path}, row {number}: expected file,label with the number of a class from 0, got"
                f" {','.join(row)[:80]!r}"
            )
        name = row[0].strip()
        if given.setdefault(name, int(label)) != int(label):
            raise UsageError(f"--labels {path}: {name[:80]!r} has the labels {given[name]} and {label}; give one")
    own = {PurePosixPath(name).name for name in images.names}
    if len(own) < len(images.names):  # a name without its folder would be of several
        return {name: given[name] for name in images.names if name in given}
    pairs = ((name, given.get(name, given.get(PurePosixPath(name).name))) for name in images.names)
    return {name: label for name, label in pairs if label is not None}


def _of_folder(path: Path, images: Files) -> dict[str, int]:
    by_hash: dict[str, int] = {}
    names = split.found(path)
    classes = _classes(path, sorted({PurePosixPath(name).parts[0] for name in names if "/" in name}))
    for name in names:
        if "/" not in name:
            continue
        activity.alive()
        files.regular(path / name, arrays.MOST, LoadError)
        label = classes[PurePosixPath(name).parts[0]]
        if by_hash.setdefault(files.sha256(path / name), label) != label:
            raise UsageError(f"--labels {path}: {name[:80]!r} lies in the folders of two classes; leave it in one")
    return {name: by_hash[key] for name, key in images.record().items() if key in by_hash}


def _classes(path: Path, folders: list[str]) -> Mapping[str, int]:
    """Give each class its number: the folder's own, or its place in the order of names."""
    numbers = [folder for folder in folders if folder.isascii() and folder.isdigit()]
    if numbers and len(numbers) < len(folders):
        others = few([folder for folder in folders if folder not in numbers], 2)
        raise UsageError(
            f"--labels {path}: some folders are numbers of classes and some are not ({others}); rename them"
        )
    if len({int(number) for number in numbers}) < len(numbers):
        raise UsageError(f"--labels {path}: two folders are called by one number; rename one")
    return {folder: int(folder) if numbers else index for index, folder in enumerate(folders)}
