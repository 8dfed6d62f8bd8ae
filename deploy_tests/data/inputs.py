"""Real data as cases: arrays, and images with a declared preprocessing that is recorded and applied again elsewhere.

    file.npy            the only input
    file.npz            inputs by name, or ``<case>.<input>`` for several cases
    folder              every .npy, .npz and image in it, each a case of its own

Images are decoded by Pillow; everything after that is arithmetic written here, so that it gives the same bits
wherever NumPy runs. This file needs neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attn_export.bundle import elements
from attn_export.deploy_tests.data.images import IMAGES, Preprocess, decode
from attn_export.errors import LoadError, UsageError
from attn_export.types import Array, Feeds, TensorSpec
from attn_export.untrusted import arrays
from attn_export.untrusted.files import regular, sha256

Decoder = Callable[[Path], Array]

#: Cases that a folder gives at most; what proves parity is variety, not number.
LIMIT = 16
#: What the name of a case made from data begins with.
PREFIX = "data: "


@dataclass(frozen=True)
class UserInputs:
    """Feeds by case name, and what is needed to make them again.

    Attributes:
        feeds: by the case's name.
        files: sha256 of the file behind each case.
        preprocess: what was done to images; None where there were none.
        left: how many files a folder had beyond the limit.
    """

    feeds: Mapping[str, Feeds]
    files: Mapping[str, str]
    preprocess: Preprocess | None
    left: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Give what the manifest records: no values, those are in the cases."""
        recorded = asdict(self.preprocess) if self.preprocess else None
        return {"files": dict(self.files), "preprocess": recorded, "skipped": self.left}


def read_inputs(
    path: Path,
    ports: Sequence[TensorSpec],
    preprocess: Preprocess | None = None,
    *,
    limit: int = LIMIT,
    decoder: Decoder = decode,
) -> UserInputs:
    """Read cases for a model with inputs ``ports`` from a file or a folder.

    Raises:
        LoadError: it cannot be read, or does not fit the inputs.
        UsageError: it has images, and how to prepare them is not declared.
    """
    files = [path] if path.is_file() else listed(path)
    if not files:
        raise LoadError(f"{path}: expected a .npy, .npz or image file, or a folder of such, got none")
    feeds: dict[str, Feeds] = {}
    hashes: dict[str, str] = {}
    prepared = any(file.suffix.lower() in IMAGES for file in files[:limit])
    for file in files[:limit]:
        cases = _read(file, ports, preprocess, decoder)  # refuses what is no regular file
        digest = sha256(file)
        for name, values in cases.items():
            case = f"{PREFIX}{file.name}{f', {name}' if name else ''}"
            feeds[case] = {port.name: _fitted(values, port, file) for port in ports}
            hashes[case] = digest
    return UserInputs(feeds, hashes, preprocess if prepared else None, max(0, len(files) - limit))


def read_one(
    file: Path, ports: Sequence[TensorSpec], preprocess: Preprocess | None, decoder: Decoder = decode
) -> Feeds:
    """Read a file that holds one case.

    Raises:
        LoadError: it cannot be read, holds several, or does not fit the inputs.
        UsageError: it is an image, and how to prepare it is not declared.
    """
    cases = _read(file, ports, preprocess, decoder)
    if len(cases) != 1:
        raise LoadError(f"{file}: expected one case, got {len(cases)}; put each into a file of its own")
    (values,) = cases.values()
    return {port.name: _fitted(values, port, file) for port in ports}


def _read(
    file: Path, ports: Sequence[TensorSpec], preprocess: Preprocess | None, decoder: Decoder
) -> Mapping[str, Mapping[str, Array]]:
    """Cases of one file, by a name that is empty where there is only one."""
    if file.suffix.lower() in IMAGES:
        if preprocess is None:
            raise undeclared(file)
        return {"": {_only(ports, file): preprocess(decoder(file))}}
    found = _arrays(file)
    if isinstance(found, np.ndarray):
        return {"": {_only(ports, file): found}}
    names = {port.name for port in ports}
    cases: dict[str, dict[str, Array]] = {}
    for key, value in found.items():
        case, _, name = key.rpartition(".") if key not in names else ("", "", key)
        cases.setdefault(case, {})[name] = value
    for case, values in cases.items():
        if set(values) != names:
            got = ", ".join(sorted(values))
            raise LoadError(f"{file}{f', case {case}' if case else ''}: expected {', '.join(sorted(names))}, got {got}")
    return cases


def undeclared(image: Path) -> UsageError:
    """Say of an image that nothing tells how it becomes an input."""
    return UsageError(
        f"{image} is an image: declare how to prepare it with --preprocess, such as"
        " size=224x224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225"
    )


_ARRAYS = (".npy", ".npz")


def listed(folder: Path) -> list[Path]:
    """List a folder's arrays and images by name; links are followed, and what is no regular file is refused later.

    Raises:
        LoadError: the folder cannot be read.
    """
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in (*_ARRAYS, *IMAGES))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise LoadError(f"{folder} cannot be read: {error}") from error


def _arrays(file: Path) -> Array | dict[str, Array]:
    """One array, or several by name, as the file's first bytes say.

    Raises:
        LoadError: it is neither, or is damaged.
    """
    regular(file, arrays.MOST, LoadError)
    try:
        with file.open("rb") as opened:
            head = opened.read(6)
    except OSError as error:
        raise LoadError(f"{file} cannot be read: {error.strerror or error}") from error
    if head.startswith(b"PK"):
        return arrays.read_npz(file)
    if head == b"\x93NUMPY":
        return arrays.read_npy(file)
    raise LoadError(f"{file} cannot be read: expected a .npy, .npz or image file")


def _only(ports: Sequence[TensorSpec], file: Path) -> str:
    if len(ports) != 1:
        raise LoadError(f"{file} holds one array, and the model takes {', '.join(p.name for p in ports)}; use an npz")
    return ports[0].name


def _fitted(values: Mapping[str, Array], port: TensorSpec, file: Path) -> Array:
    """Convert an array to the input's element type, with a batch axis where only that was missing."""
    value = values[port.name]
    kind = elements.held_as(port.dtype)
    if value.ndim == len(port.shape) - 1:
        value = value[None]
    same = len(value.shape) == len(port.shape)
    if not same or any(
        isinstance(size, int) and size != given for size, given in zip(port.shape, value.shape, strict=True)
    ):
        shape = "x".join(map(str, port.shape))
        raise LoadError(f"{file}: {port.name} expected shape {shape}, got {'x'.join(map(str, value.shape))}")
    if value.dtype != kind and (value.dtype.kind, kind.kind) not in (("f", "f"), ("i", "i"), ("u", "i")):
        raise LoadError(f"{file}: {port.name} expected {port.dtype}, got {value.dtype}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise LoadError(f"{file}: {port.name} holds NaN or infinity")
    with np.errstate(over="ignore"):
        fitted = elements.fitted(value, port.dtype)
    if not (np.isfinite(fitted).all() if kind.kind == "f" else np.array_equal(fitted, value)):
        raise LoadError(f"{file}: {port.name} holds numbers beyond {port.dtype}")
    return fitted
