"""Three sets of files for INT8: ranges are learnt from one, choices are made on another, figures are of the third.

    calibration    half of the files, at most 512
    held out       a quarter, at most 64
    test           the rest; the first of them become cases of the bundle

Which file is in which set follows from the hashes of their contents alone: not from names, order or a seed, and equal
files count once, so that no picture is calibrated on and judged. Files are read when they are asked for, each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from attn_export.deploy_tests.data import inputs
from attn_export.deploy_tests.data.images import IMAGES, Preprocess, decode
from attn_export.deploy_tests.data.inputs import LIMIT, PREFIX, Decoder, UserInputs
from attn_export.errors import LoadError, UsageError
from attn_export.process import activity
from attn_export.types import Feeds, TensorSpec
from attn_export.untrusted import arrays
from attn_export.untrusted.files import regular, sha256

#: Files below which there is no sense in it: 8 to calibrate on, 4 to choose on, 4 to judge by.
FEWEST = 16
#: Files that ranges are learnt from, and that choices are made on, at most: more cost time, and move nothing.
CALIBRATION, HELD_OUT = 512, 64
#: Folders in a folder of data, each with the files of one class.
FOLDERS = 10_000


@dataclass(frozen=True)
class Files(Sequence[Feeds]):
    """Inputs in files; each is read when it is asked for, and none is kept.

    Attributes:
        root: the folder they lie in.
        names: of the files, from there.
        hashes: sha256 of each.
        ports: what the model takes.
        preprocess: how images become inputs.
    """

    root: Path
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    ports: tuple[TensorSpec, ...]
    preprocess: Preprocess | None
    decoder: Decoder = field(default=decode, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Feeds: ...
    @overload
    def __getitem__(self, index: slice) -> Files: ...
    def __getitem__(self, index: int | slice) -> Feeds | Files:
        """Read one file, or choose some.

        Raises:
            LoadError: the file cannot be read, or does not fit the inputs.
            UsageError: it is an image, and how to prepare it is not declared.
        """
        if isinstance(index, slice):
            return Files(self.root, self.names[index], self.hashes[index], self.ports, self.preprocess, self.decoder)
        activity.alive()
        return inputs.read_one(self.root / self.names[index], self.ports, self.preprocess, self.decoder)

    def record(self) -> dict[str, str]:
        """Give the hash of each file by its name, for the manifest."""
        return dict(zip(self.names, self.hashes, strict=True))


@dataclass(frozen=True)
class Split:
    """The three sets.

    Attributes:
        calibration: ranges are learnt from them.
        held_out: choices are made on them.
        test: figures are of them.
        equal: how many files were left out, since another holds the same.
    """

    calibration: Files
    held_out: Files
    test: Files
    equal: int = 0

    def cases(self) -> UserInputs:
        """Read the first files of the test set, as cases for a bundle.

        Raises:
            LoadError: one cannot be read, or does not fit the inputs.
        """
        chosen = self.test[:LIMIT]
        names = [f"{PREFIX}{name}" for name in chosen.names]
        prepared = any(Path(name).suffix.lower() in IMAGES for name in chosen.names)
        return UserInputs(
            dict(zip(names, chosen, strict=True)),
            dict(zip(names, chosen.hashes, strict=True)),
            self.test.preprocess if prepared else None,
        )

    def taking(self, ports: Sequence[TensorSpec]) -> Split:
        """Give the same sets for a model that takes these inputs: the files are not looked at again."""

        def of(files: Files) -> Files:
            return replace(files, ports=tuple(ports))

        return Split(of(self.calibration), of(self.held_out), of(self.test), self.equal)

    def summary(self) -> str:
        """Say how many files are for what."""
        sizes = len(self.calibration), len(self.held_out), len(self.test)
        sets = "{} files to calibrate, {} to choose on, {} to judge by".format(*sizes)
        return f"{sets}; {self.equal} hold the same as another and are left out" if self.equal else sets


def split(
    path: Path, ports: Sequence[TensorSpec], preprocess: Preprocess | None = None, decoder: Decoder = decode
) -> Split:
    """Divide the files of a folder, and of the folders in it.

    Raises:
        UsageError: there are too few, or how to prepare images is not declared.
        LoadError: the folder cannot be read.
    """
    files = found(path)
    hashes: dict[str, str] = {}
    for name in files:
        activity.alive()
        regular(path / name, arrays.MOST)
        hashes.setdefault(sha256(path / name), name)
    if len(hashes) < FEWEST:
        raise UsageError(
            f"--int8 needs at least {FEWEST} different files in --data, to calibrate, to choose and to judge by; got"
            f" {len(hashes)} in {path}: add inputs as the model will see them, a hundred or more are usual"
        )
    order = sorted(hashes)
    if preprocess is None and (images := [name for name in files if Path(name).suffix.lower() in IMAGES]):
        raise inputs.undeclared(path / images[0])
    first = min(len(order) // 2, CALIBRATION)
    second = first + min(len(order) // 4, HELD_OUT)
    whole = Files(path, tuple(hashes[key] for key in order), tuple(order), tuple(ports), preprocess, decoder)
    return Split(whole[:first], whole[first:second], whole[second:], len(files) - len(order))


def found(path: Path) -> tuple[str, ...]:
    """List the arrays and images of a folder, and of the folders in it, by their names from there.

    Raises:
        UsageError: it is no folder.
        LoadError: it cannot be read, or holds too many folders.
    """
    if not path.is_dir():
        raise UsageError(f"--int8 needs a folder of inputs, each a file: give it with --data, got {path}")
    try:
        folders = sorted(one for one in path.iterdir() if one.is_dir())
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(folders) > FOLDERS:
        raise LoadError(f"{path}: expected at most {FOLDERS} folders, got {len(folders)}")
    places = (file for folder in (path, *folders) for file in inputs.listed(folder))
    return tuple(place.relative_to(path).as_posix() for place in places)
