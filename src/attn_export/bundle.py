"""The bundle, schema 1: a folder that holds a deployed model and everything needed to prove it again.

    model.onnx        what is deployed (plus model.onnx.data when large)
    cases.npz         inputs, and for each the float64 truth and the error of PyTorch float32 against it
    manifest.json     schema, subject, stages, input and output contract, tolerance, environment, sha256 of each file
    report.json       parity and latency as measured, raw samples included

It is written whole or not at all, and validated on reading: known schema, every file present with its hash, no path
outside the folder. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export import __version__
from attn_export.errors import BundleError, WriteError

SCHEMA = 1
MODEL, CASES, MANIFEST, REPORT, PAGE = "model.onnx", "cases.npz", "manifest.json", "report.json", "report.html"

Array = NDArray[Any]


@dataclass(frozen=True)
class Port:
    """One input or output of the model: its name, NumPy element type, and shape by numbers and dimension names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Varying:
    """A dimension that may vary: the multiples of ``step`` from ``least`` to ``most`` (None: no limit)."""

    name: str
    step: int = 1
    least: int = 1
    most: int | None = None


@dataclass(frozen=True)
class Case:
    """One input with its truth.

    Attributes:
        name: what kind of input it is, such as ``seed 1, b=3``.
        inputs: by input name.
        truth: by output name, the original module in float64.
        yardstick: by output name, the largest Euclidean error of PyTorch float32 against the truth.
    """

    name: str
    inputs: Mapping[str, Array]
    truth: Mapping[str, Array]
    yardstick: Mapping[str, float]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and found whole."""

    path: Path
    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    varying: tuple[Varying, ...]
    tolerance: float
    cases: tuple[Case, ...]
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL


def read(path: Path) -> Bundle:
    """Read and validate a bundle.

    Raises:
        BundleError: it is not whole, was altered, or has a schema this version does not know.
    """
    manifest = _manifest(path)
    for name, wanted in _expect(manifest, "files", dict, path).items():
        _check_file(path, name, wanted)
    for name in (MODEL, CASES):
        if name not in manifest["files"]:
            raise BundleError(f"{path}: {MANIFEST} does not account for {name}; write the bundle again")
    try:
        return Bundle(
            path,
            manifest["subject"]["name"],
            tuple(Port(p["name"], p["dtype"], tuple(p["shape"])) for p in manifest["inputs"]),
            tuple(Port(p["name"], p["dtype"], tuple(p["shape"])) for p in manifest["outputs"]),
            tuple(Varying(**v) for v in manifest["varying"]),
            float(manifest["tolerance"]["k"]),
            read_cases(path / CASES),
            manifest,
        )
    except (KeyError, TypeError) as error:
        raise BundleError(f"{path}: {MANIFEST} is incomplete: {error}; write the bundle again") from error


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{path} is no bundle: there is no {MANIFEST} in it") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        came = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise BundleError(f"{path} has schema {came!r}; attn-export {__version__} reads schema {SCHEMA}")
    return manifest


def _expect(manifest: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:
    if not isinstance(manifest.get(key), kind):
        raise BundleError(f"{path}: {MANIFEST} has no {key!r}; write the bundle again")
    return manifest[key]


def _check_file(folder: Path, name: str, wanted: str) -> None:
    file = folder / name
    if Path(name).is_absolute() or not file.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{folder}: {MANIFEST} names {name!r}, which lies outside the bundle")
    if not file.is_file():
        raise BundleError(f"{folder}: {name} is missing; copy the bundle again")
    if (came := sha256(file)) != wanted:
        raise BundleError(f"{file} was altered: sha256 is {came[:12]}…, the manifest says {str(wanted)[:12]}…")


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_cases(file: Path, cases: tuple[Case, ...]) -> None:
    """Write cases as one npz: ``<index>.input.<name>``, ``<index>.truth.<name>``, ``<index>.yardstick.<name>``."""
    arrays: dict[str, Array] = {"names": np.array([case.name for case in cases])}
    for index, case in enumerate(cases):
        arrays |= {f"{index}.input.{name}": value for name, value in case.inputs.items()}
        arrays |= {f"{index}.truth.{name}": value for name, value in case.truth.items()}
        arrays |= {f"{index}.yardstick.{name}": np.asarray(value) for name, value in case.yardstick.items()}
    np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub reads ** as the keyword allow_pickle


def read_cases(file: Path) -> tuple[Case, ...]:
    """Read what ``write_cases`` wrote.

    Raises:
        BundleError: it is damaged, or holds no cases.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        names = [str(name) for name in arrays.pop("names")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    if not names:
        raise BundleError(f"{file} holds no cases, so nothing could be proven with it")

    def part(index: int, kind: str) -> dict[str, Array]:
        prefix = f"{index}.{kind}."
        return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}

    return tuple(
        Case(name, part(i, "input"), part(i, "truth"), {k: float(v) for k, v in part(i, "yardstick").items()})
        for i, name in enumerate(names)
    )


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``manifest.json`` last: with the schema, and the hash of every other file but the report."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, REPORT, PAGE))
    hashes = {p.relative_to(folder).as_posix(): sha256(p) for p in files}
    write_json(folder / MANIFEST, {"schema": SCHEMA, "attn_export": __version__, **content, "files": hashes})


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that a person can read; NaN is an error, since JSON has none."""
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Give a temporary sibling folder to fill; when the block ends well it becomes ``target`` in one step.

    An older bundle at ``target`` is there, whole, until that step. Whatever happens before it, even a kill, leaves
    ``target`` as it was.

    Raises:
        WriteError: ``target`` is something else than a bundle, or the folder cannot be written to.
    """
    target = target.absolute()
    if target.exists() and not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise WriteError(f"{target} exists and is no bundle; choose another place with -o")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        temporary.mkdir()
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _flush(file)
        _replace(temporary, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> WriteError:
    reason = error.strerror or str(error)
    return WriteError(f"cannot write the bundle {target}: {reason}; free some space or choose another place with -o")


def _sweep(target: Path) -> None:
    """Remove what killed runs left behind, told by the process number in the name."""
    for left in target.parent.glob(f".{target.name}.*.partial"):
        number = left.name.split(".")[-2]
        if number.isdigit() and not Path("/proc", number).exists():
            shutil.rmtree(left, ignore_errors=True)


def _flush(path: Path) -> None:
    """Bring a file to the disk, so that a power cut after the rename cannot leave an empty file behind it."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _replace(new: Path, target: Path) -> None:
    """Put ``new`` at ``target``; an older folder there is exchanged in one step and lands at ``new``."""
    if target.exists() and not _exchange(new, target):
        aside = new.with_suffix(".old.partial")
        target.rename(aside)  # where the file system cannot exchange, the gap is these two lines
        new.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    elif new.exists() and not target.exists():
        new.rename(target)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically (Linux ``renameat2`` with RENAME_EXCHANGE); False where that is not to be had."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return int(call(here, os.fsencode(one), here, os.fsencode(other), exchange)) == 0
