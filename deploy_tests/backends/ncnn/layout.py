"""What stands beside an ncnn file: the names, sizes and batch of its inputs and outputs, which ncnn knows by number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from attn_export.bundle.elements import in_32_bits
from attn_export.errors import BackendError
from attn_export.types import TensorSpec

#: A layout is a few lines; what is larger is none.
LARGEST = 1 << 20


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        name: what the model calls it.
        dtype: its element type.
        shape: its sizes, all fixed; None where those of an output are not known.
        batch: the axis that ncnn does not count; None where it counts all.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    batch: int | None

    def fit(self, value: NDArray[Any]) -> None:
        """Hold an input to its shape: ncnn does not look.

        Raises:
            ValueError: it has another.
        """
        if value.shape != self.shape:
            raise ValueError(f"expected {self.name} of shape {list(self.shape)}, got {list(value.shape)}")

    def stored(self, value: NDArray[Any]) -> NDArray[Any]:
        """Give an input as ncnn holds it: floats, or integers of 32 bits.

        Raises:
            ValueError: an integer is too large for that.
        """
        return in_32_bits(value, self.name, "ncnn")


@dataclass(frozen=True)
class Layout:
    """The inputs and outputs of a file, in the order in which ncnn numbers them."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def read(path: Path) -> Layout:
    """Read the layout of the ``.param`` file ``path``, which lies beside it.

    Raises:
        BackendError: it is not there, or is none.
    """
    file = path.with_suffix(".json")
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        whole = json.loads(file.read_text(encoding="utf-8"))
        return Layout(*(tuple(map(_port, whole[kind])) for kind in ("inputs", "outputs")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f"{file}: expected the names and sizes of inputs and outputs, got {type(error).__name__}: {error};"
            " convert the model again"
        ) from error


def _port(row: Mapping[str, Any]) -> Port:
    shape = tuple(None if size is None else int(size) for size in row["shape"])
    batch = None if row["batch"] is None else int(row["batch"])
    if batch is not None and (batch not in range(len(shape)) or shape[batch] not in (1, None)):
        raise ValueError(f"axis {batch} of {list(shape)} is no batch of one")
    return Port(str(row["name"]), str(row["dtype"]), shape, batch)


def held_to(found: Layout, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], where: Path) -> None:
    """Hold a layout to the model's contract, where that is known: names, in their order.

    Raises:
        BackendError: they are others.
    """
    for have, want in ((found.inputs, inputs), (found.outputs, outputs)):
        names, wanted = [port.name for port in have], [port.name for port in want]
        if wanted and names != wanted:
            raise BackendError(
                f"{where}: expected {', '.join(wanted)}, got {', '.join(names)}; convert the model again"
            )
