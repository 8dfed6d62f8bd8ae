"""Which sizes may vary in a file whose memory is planned for the largest: all that can, else batches, else none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attn_export.bundle.narrowed import Narrowed
from attn_export.export.onnx.exported import Contract
from attn_export.export.torch_program import TorchProgram
from attn_export.types import Dim

#: The largest batch where the model has no limit; larger ones run in pieces.
BATCH = 8
#: How many times the example's size any other dimension may be, where the model has no limit.
TIMES = 2


@dataclass(frozen=True)
class Attempt:
    """A way to trace the program.

    Attributes:
        dims: those that vary less than in the model, in the range that the file takes.
        varying: those that vary in the file, with a limit.
        cut: those of one size.
    """

    dims: tuple[Dim, ...]
    varying: tuple[Dim, ...]
    cut: tuple[Dim, ...]

    def free(self, program: TorchProgram) -> tuple[dict[int, Any], ...]:
        """Say which axis of each input varies, as ``torch.export`` takes it."""
        sizes = {dim.name: _symbol(dim, place) for place, dim in enumerate(self.varying)}
        return tuple({axis: sizes[name] for axis, name in axes.items() if name in sizes} for axes in program.axes)

    def sized(self, program: TorchProgram, *, most: bool) -> tuple[torch.Tensor, ...]:
        """Give the example at the largest or the smallest sizes that the file takes, repeated or cut."""
        sizes = {dim.name: dim.max if most else max(dim.min, dim.step) for dim in self.varying}
        given = []
        for tensor, axes in zip(program.at(self.cut), program.axes, strict=True):
            for axis, name in axes.items():
                if (size := sizes.get(name)) is not None:
                    tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])  # noqa: PLW2901
            given.append(tensor.contiguous())
        return tuple(given)

    def summary(self) -> str:
        """Say what was narrowed; nothing where the file takes what the model takes."""
        if not self.dims:
            return ""
        said = ", ".join(
            f"{dim.name}={dim.min}" if dim.min == dim.max else f"{dim.name}={dim.min} to {dim.max}" for dim in self.dims
        )
        return f"model.pte takes {said}, for which its memory is planned; larger batches run in pieces"


def attempts(contract: Contract, program: TorchProgram, fixed: Sequence[Dim]) -> Iterator[Attempt]:
    """Give the ways to trace it, from the one that promises most."""
    ports = Narrowed(contract.inputs, contract.outputs)
    sizes = {
        name: tensor.shape[axis]
        for axes, tensor in zip(program.axes, program.example, strict=True)
        for axis, name in axes.items()
    }
    bounded = {dim.name: _bounded(dim, sizes[dim.name], batch=ports.counts_items(dim.name)) for dim in program.dims}
    seen = set[tuple[str, ...]]()
    for names in (tuple(bounded), tuple(name for name in bounded if ports.counts_items(name)), ()):
        if names in seen:
            continue
        seen.add(names)
        varying = tuple(bounded[name] for name in names)
        cut = tuple(dim for dim in fixed if dim.name not in names)
        narrowed = tuple(dim for dim in varying if dim not in program.dims)
        yield Attempt((*narrowed, *cut), varying, cut)


def _bounded(dim: Dim, size: int, *, batch: bool) -> Dim:
    if dim.max is not None:
        return dim
    most = max(BATCH, size) if batch else TIMES * size
    return Dim(dim.name, dim.min, max(most // dim.step * dim.step, dim.min), dim.step)


def _symbol(dim: Dim, place: int) -> Any:
    """Name it by its place: names of the user's need be no identifiers."""
    assert dim.max is not None
    low, high = -(-dim.min // dim.step), dim.max // dim.step
    symbol = torch.export.Dim(f"d{place}", min=max(low, 1), max=high)
    return dim.step * symbol if dim.step > 1 else symbol
