"""Real data as cases: arrays, and images with a declared preprocessing that is recorded and applied again elsewhere.

    file.npy            the only input
    file.npz            inputs by name, or ``<case>.<input>`` for several cases
    folder              every .npy, .npz and image in it, each a case of its own

Images are decoded by Pillow; everything after that is arithmetic written here, so that it gives the same bits
wherever NumPy runs. This file needs neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export.bundle import Port
from attn_export.errors import LoadError, UsageError
from attn_export.export.images import IMAGES, Preprocess, decode

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Decoder = Callable[[Path], Array]

#: Cases that a folder gives at most; what proves parity is variety, not number.
LIMIT = 16
#: What the name of a case made from data begins with.
PREFIX = "data: "


@dataclass(frozen=True)
class Data:
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

    def as_json(self) -> dict[str, Any]:
        """What the manifest records: no values, those are in the cases."""
        recorded = asdict(self.preprocess) if self.preprocess else None
        return {"files": dict(self.files), "preprocess": recorded, "left": self.left}


def read(
    path: Path,
    ports: Sequence[Port],
    preprocess: Preprocess | None = None,
    *,
    limit: int = LIMIT,
    decoder: Decoder = decode,
) -> Data:
    """Read cases for a model with inputs ``ports`` from a file or a folder.

    Raises:
        LoadError: it cannot be read, or does not fit the inputs.
        UsageError: it has images, and how to prepare them is not declared.
    """
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.suffix.lower() in (*_ARRAYS, *IMAGES))
    if not files:
        raise LoadError(f"{path}: wanted a .npy, .npz or image file, or a folder of such; came none")
    feeds: dict[str, Feeds] = {}
    hashes: dict[str, str] = {}
    prepared = any(file.suffix.lower() in IMAGES for file in files[:limit])
    for file in files[:limit]:
        digest = _sha256(file)
        for name, values in _read(file, ports, preprocess, decoder).items():
            case = f"{PREFIX}{file.name}{f', {name}' if name else ''}"
            feeds[case] = {port.name: _fitted(values, port, file) for port in ports}
            hashes[case] = digest
    return Data(feeds, hashes, preprocess if prepared else None, max(0, len(files) - limit))


def _read(
    file: Path, ports: Sequence[Port], preprocess: Preprocess | None, decoder: Decoder
) -> Mapping[str, Mapping[str, Array]]:
    """Cases of one file, by a name that is empty where there is only one."""
    if file.suffix.lower() in IMAGES:
        if preprocess is None:
            raise UsageError(
                f"{file} is an image: declare how to prepare it with --preprocess, such as"
                " size=224x224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225"
            )
        return {"": {_only(ports, file): preprocess(decoder(file))}}
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": {_only(ports, file): loaded}}
        with loaded as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise LoadError(f"{file} cannot be read: {error}") from error
    names = {port.name for port in ports}
    cases: dict[str, dict[str, Array]] = {}
    for key, value in arrays.items():
        case, _, name = key.rpartition(".") if key not in names else ("", "", key)
        cases.setdefault(case, {})[name] = value
    for case, values in cases.items():
        if set(values) != names:
            came = ", ".join(sorted(values))
            raise LoadError(f"{file}{f', case {case}' if case else ''}: wanted {', '.join(sorted(names))}; came {came}")
    return cases


_ARRAYS = (".npy", ".npz")


def _only(ports: Sequence[Port], file: Path) -> str:
    if len(ports) != 1:
        raise LoadError(f"{file} holds one array, and the model takes {', '.join(p.name for p in ports)}; use an npz")
    return ports[0].name


def _fitted(values: Mapping[str, Array], port: Port, file: Path) -> Array:
    """The array in the input's element type, with a batch axis where only that was missing."""
    value = values[port.name]
    kind = np.dtype(port.dtype)
    if value.ndim == len(port.shape) - 1:
        value = value[None]
    same = len(value.shape) == len(port.shape)
    if not same or any(
        isinstance(want, int) and want != came for want, came in zip(port.shape, value.shape, strict=True)
    ):
        wanted = "x".join(map(str, port.shape))
        raise LoadError(f"{file}: {port.name} wanted shape {wanted}, came {'x'.join(map(str, value.shape))}")
    if value.dtype != kind and (value.dtype.kind, kind.kind) not in (("f", "f"), ("i", "i"), ("u", "i")):
        raise LoadError(f"{file}: {port.name} wanted {kind}, came {value.dtype}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise LoadError(f"{file}: {port.name} holds NaN or infinity")
    return np.ascontiguousarray(value, kind)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
