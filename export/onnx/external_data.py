"""Weights outside of an ONNX file: where they lie and how large they are is held against what the file promises.

They lie in the file's own folder, in regular files that no link leads to (the ``onnx`` package opens no others), and
each piece is as long as its shape and type say.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from onnx import ModelProto, TensorProto
from onnx.external_data_helper import load_external_data_for_tensor

from attn_export.errors import SubjectError
from attn_export.export.graph.light import size_of
from attn_export.export.onnx.walk import tensors
from attn_export.untrusted import files

#: Bytes of one file of weights, and of all pieces together.
MOST = 1 << 40
#: Smaller pieces are read at once: shapes and scales are computed from them.
SMALL = 1 << 14


def settle(model: ModelProto, folder: Path) -> None:
    """Check every piece, write its length down where the file left it out, and read the small ones.

    Raises:
        SubjectError: a piece is not there, lies elsewhere, or has another size.
    """
    known: dict[str, int] = {}
    outer = list(model.graph.initializer)  # held, so that an identity stays one
    large = set(map(id, outer))
    total = 0
    for tensor in tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        size = size_of(tensor)
        total += size
        if total > MOST:
            raise SubjectError(f"its weights take more than {MOST >> 40} TB")
        _piece(tensor, size, folder, known)
        if size <= SMALL or id(tensor) not in large:
            _read(tensor, folder)


def load(model: ModelProto, folder: Path) -> None:
    """Read every piece into the model.

    Raises:
        SubjectError: one cannot be read.
    """
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            _read(tensor, folder)


def _piece(tensor: TensorProto, size: int, folder: Path, known: dict[str, int]) -> None:
    what = f"the weights of {tensor.name[:80]!r}"
    said = {entry.key: entry.value for entry in tensor.external_data}
    location = said.get("location", "")
    if location not in known:
        known[location] = _file(location, folder, what)
    offset, length = _number(said, "offset", what), _number(said, "length", what)
    if length is not None and length != size:
        raise SubjectError(f"{what} take {size} bytes by their shape and type, and {length} in {location!r}")
    if (offset or 0) + size > known[location]:
        raise SubjectError(f"{what} lie in {location}, which ends before them: it has {known[location]} bytes")
    if length is None:
        entry = tensor.external_data.add()
        entry.key, entry.value = "length", str(size)


def _file(location: str, folder: Path, what: str) -> int:
    """Size of the file."""
    try:
        place = files.inside(folder, location, SubjectError)
        size = files.regular(place, MOST, SubjectError) if os.path.lexists(place) else None
    except SubjectError as error:
        raise SubjectError(f"{what} are not to be read: {error}") from error
    if size is None:
        raise SubjectError(f"{what} lie in {place}, which is not there")
    if Path(os.path.realpath(place)) != Path(os.path.realpath(folder), os.path.normpath(location)):
        raise SubjectError(f"{what} are not to be read: {place} is reached through a link; put the file itself there")
    if place.stat().st_nlink > 1:
        raise SubjectError(f"{what}: {place} has a second name (a hard link); put a copy of its own there")
    return size


def _number(said: dict[str, str], key: str, what: str) -> int | None:
    if key not in said:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", said[key]):
        raise SubjectError(f"{what}: expected a number of bytes as their {key}, got {said[key][:40]!r}")
    return int(said[key])


def _read(tensor: TensorProto, folder: Path) -> None:
    try:
        load_external_data_for_tensor(tensor, str(folder))
    except Exception as error:  # the file system's errors and the library's own share no base
        raise SubjectError(f"the weights of {tensor.name[:80]!r} cannot be read: {error}") from error
