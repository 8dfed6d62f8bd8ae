"""NumPy files from outside: the sizes that a file promises are added up before any of it is unpacked."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from attn_export.errors import AttnExportError, LoadError
from attn_export.untrusted import files
from attn_export.untrusted.text import first_line

Array = NDArray[Any]

#: Bytes of one file of arrays, on disk and unpacked.
MOST = 8 * files.GB
#: Arrays in one archive.
COUNT = 100_000
#: Unpacked bytes for each packed one: arrays of zeros reach a thousand, honest cases ten.
RATIO = 200
#: Small archives may be packed as densely as they like.
SMALL = 64 * files.MB
#: Bytes of a header: a dtype and a shape.
_HEADER = 10_000


def read_npy(path: Path, error: type[AttnExportError] = LoadError, most: int = MOST) -> Array:
    """Read one array; never a pickle.

    Raises:
        error: it is no such file, is damaged, or is too large.
    """
    size = files.regular(path, most, error)
    try:
        with path.open("rb") as file:
            return _array(file, size, str(path))
    except Exception as reason:  # a damaged file makes the libraries under it raise anything
        raise error(f"{path} cannot be read as an array: {first_line(reason)}") from reason


def read_npz(path: Path, error: type[AttnExportError] = LoadError, most: int = MOST) -> dict[str, Array]:
    """Read an archive of arrays; never a pickle.

    Raises:
        error: it is no such file, is damaged, encrypted, holds a name twice, or unpacks to too much.
    """
    size = files.regular(path, most, error)
    try:
        with zipfile.ZipFile(path) as archive:
            return dict(_members(archive, size, most))
    except Exception as reason:  # a damaged file makes the libraries under it raise anything
        raise error(f"{path} cannot be read as arrays: {first_line(reason)}") from reason


def _members(archive: zipfile.ZipFile, size: int, most: int) -> Iterator[tuple[str, Array]]:
    entries = archive.infolist()
    if len(entries) > COUNT:
        raise ValueError(f"{len(entries)} arrays; at most {COUNT} are read")
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("a name stands twice in it")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > most or unpacked > max(SMALL, RATIO * size):
        raise ValueError(f"its {size} bytes claim to unpack to {unpacked}")
    for entry in entries:
        if entry.flag_bits & 1:
            raise ValueError(f"{entry.filename!r} is encrypted")
        if not entry.filename.endswith(".npy"):
            raise ValueError(f"{entry.filename[:80]!r} is not an array")
        with archive.open(entry) as member:
            content = member.read(entry.file_size + 1)
        if len(content) != entry.file_size:
            raise ValueError(f"{entry.filename!r} does not unpack to the size that it claims")
        yield entry.filename[: -len(".npy")], _array(io.BytesIO(content), len(content), entry.filename)


def _array(file: Any, size: int, name: str) -> Array:
    """One array: its header first, which must promise just what follows."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name!r}: version {version} of the format")
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = header(file, max_header_size=_HEADER)
    if dtype.hasobject:
        raise ValueError(f"{name!r} holds objects, which only running code could read")
    if dtype.kind not in "biufcUS":
        raise ValueError(f"{name!r} has elements of type {dtype}")
    if any(not isinstance(length, int) or length < 0 for length in shape):
        raise ValueError(f"{name!r} has the shape {shape}")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"{name!r}: shape and type promise another number of bytes than follow")
    file.seek(0)
    return np.asarray(npy.read_array(file, allow_pickle=False, max_header_size=_HEADER))
