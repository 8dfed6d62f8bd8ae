"""Which tensor of a file is which input or output of the model: a signature is sorted by name, ``args_10`` second."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attn_export.errors import BackendError
from attn_export.types import TensorSpec

#: What the converter from PyTorch calls the inputs and outputs of a module, by their place.
_NUMBERED = re.compile(r"(args|output)_(\d+)")


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    Attributes:
        index: by which the interpreter knows it.
        dtype: NumPy element type.
        shape: as the file has it.
    """

    index: int
    dtype: str
    shape: tuple[int, ...]


def matched(tensors: Mapping[str, Tensor], ports: Sequence[TensorSpec], what: str) -> dict[str, Tensor]:
    """Give each port of the model its tensor: by its name, or by its place where the file has numbers for names.

    >>> one, two = Tensor(7, "float32", (1, 3)), Tensor(5, "int64", (1,))
    >>> ports = TensorSpec("x", "float32", ("b", 3)), TensorSpec("i", "int64", ("b",))
    >>> matched({"args_1": two, "args_0": one}, ports, "inputs")["i"].index
    5

    Raises:
        BackendError: the names, an element type or a shape are others than the model's.
    """
    if not ports:
        return dict(tensors)
    names = [port.name for port in ports]
    if set(names) == set(tensors):
        found = {name: tensors[name] for name in names}
    elif (numbered := _by_number(tensors)) is not None and len(numbered) == len(names):
        found = dict(zip(names, numbered, strict=True))
    else:
        raise BackendError(f"{what}: expected {', '.join(names)}, got {', '.join(tensors) or 'none'}")
    for port in ports:
        tensor = found[port.name]
        if tensor.dtype != port.dtype or not _fits(tensor.shape, port.shape):
            got = f"{tensor.dtype} {_shown(tensor.shape)}"
            raise BackendError(f"{what}: expected {port.name} to be {port.dtype} {_shown(port.shape)}, got {got}")
    return found


def _by_number(tensors: Mapping[str, Tensor]) -> list[Tensor] | None:
    numbers = dict[int, Tensor]()
    for name, tensor in tensors.items():
        if not (found := _NUMBERED.fullmatch(name)):
            return None
        numbers[int(found[2])] = tensor
    return [numbers[i] for i in range(len(tensors))] if set(numbers) == set(range(len(tensors))) else None


def _fits(shape: Sequence[int], wanted: Sequence[int | str]) -> bool:
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or size == there for there, size in zip(shape, wanted, strict=True)
    )


def _shown(shape: Sequence[int | str]) -> str:
    return "x".join(map(str, shape)) or "scalar"
