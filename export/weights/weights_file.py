"""Read what a file of weights holds without running code from it, and without believing the sizes that it claims.

safetensors    sizes are checked by the library against the file itself
zip            what ``torch.save`` writes: the archive is looked through first, as any archive from outside
pickle         what ``torch.save`` wrote before 2020, alone or in a tar archive
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from attn_export.errors import CheckpointError
from attn_export.export.weights import plain_objects
from attn_export.untrusted import files
from attn_export.untrusted.text import first_line

#: Bytes of a file.
MOST = 64 * files.GB
#: Members of an archive, and bytes of the part that says which tensors there are.
MEMBERS, INDEX = 1_000_000, 256 * files.MB
#: Bytes unpacked, or claimed by tensors, for each byte of the file: weights do not shrink, and few are repeated.
RATIO, SMALL = 50, 64 * files.MB
#: Letters of a tensor's name.
LONGEST = 1000

_WAY_OUT = "save a plain state dict: safetensors.torch.save_file(model.state_dict(), 'net.safetensors')"


def read(path: Path) -> object:
    """Whatever the file holds: mostly a mapping with tensors in it.

    Raises:
        CheckpointError: it is no regular file, is damaged, needs code to be run, or claims more than it can hold.
    """
    size = files.regular(path, MOST, CheckpointError)
    with path.open("rb") as file:
        head = file.read(40)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a pointer of Git LFS, not the weights: run git lfs pull in its repository")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if head.startswith(b"PK"):
        _look_through(path, size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises
            with plain_objects.allowed():
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise CheckpointError(f"{path} cannot be read as weights ({_why(error)}); {_WAY_OUT}") from error


def _safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # the library's own class has no public base
        raise CheckpointError(f"{path} is not a safetensors file: {first_line(error)}; {_WAY_OUT}") from error


def _look_through(path: Path, size: int) -> None:
    """Look through a zip archive before anybody unpacks it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # a damaged archive makes the library raise anything
        raise CheckpointError(f"{path} is not a whole archive of weights ({first_line(error)}); {_WAY_OUT}") from error
    unpacked = sum(entry.file_size for entry in entries)
    if len(entries) > MEMBERS or len({entry.filename for entry in entries}) != len(entries):
        raise CheckpointError(f"{path}: expected an archive with each name once, got one with {len(entries)} entries")
    if any(entry.flag_bits & 1 for entry in entries):
        raise CheckpointError(f"{path} is encrypted; unpack it first, or {_WAY_OUT}")
    if unpacked > max(SMALL, RATIO * size):
        raise CheckpointError(f"{path}: its {size} bytes claim to unpack to {unpacked}; {_WAY_OUT}")
    if any(entry.file_size > INDEX for entry in entries if entry.filename.endswith(".pkl")):
        raise CheckpointError(f"{path}: its list of tensors has more than {INDEX >> 20} MB; {_WAY_OUT}")


def check(state: Mapping[str, Tensor], path: Path | str, size: int) -> None:
    """Hold the tensors of a file of ``size`` bytes against what can be: ordinary numbers, no more than it can hold.

    Raises:
        CheckpointError: one is sparse, quantised or without values, or all together claim too much.
    """
    claimed = 0
    for name, value in state.items():
        if len(name) > LONGEST:
            raise CheckpointError(f"{path}: expected names of at most {LONGEST} letters, got {len(name)}")
        if odd := _odd(value):
            raise CheckpointError(f"{path}: expected dense tensors with values, got {name}, which is {odd}; {_WAY_OUT}")
        claimed += value.numel() * value.element_size()
    if claimed > max(SMALL, RATIO * size):
        raise CheckpointError(f"{path}: its {size} bytes claim to hold tensors of {claimed} bytes; {_WAY_OUT}")


def _odd(value: Tensor) -> str:
    if value.is_nested:
        return "nested"
    if value.layout != torch.strided:
        return f"sparse ({value.layout})"
    if value.is_quantized:
        return "quantised; dequantise it first"
    return "" if value.device.type == "cpu" else f"without values (on the device {value.device.type})"


def _why(error: BaseException) -> str:
    """PyTorch's reason in our words: its own advice is to run what code the file holds."""
    if found := re.search(r"Unsupported (?:global|class)\S* (?:GLOBAL )?([\w.]+)", str(error)):
        return f"it holds more than tensors: reading {found[1]} would run code"
    if "legacy .tar" in str(error):
        return "it is a tar archive as the first PyTorch wrote it, which only running code could read, or no weights"
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or holds more than tensors, which only running code could read"
    return first_line(error).partition(" In PyTorch 2.6")[0]
