"""Run a model's cases on a file of it that takes fewer sizes: many formats hold one batch, or one height and width.

    admitted whole           the file takes these sizes: one run
    admitted in pieces       it takes a smaller batch: one run for each piece, the outputs put together again
    refused                  a size that is no batch is another than the file's: the case is left out, and that is said

A batch is what every output, and every input that has it, counts first. That its items do not know each other is what
the reference then shows: pieces of a model that mixes them do not give what the whole gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attn_export.bundle.format import Case
from attn_export.types import Array, Dim, Feeds, TensorSpec

#: Takes every input by name, and gives every output by name.
Run = Callable[[Feeds], dict[str, Array]]


@dataclass(frozen=True)
class Narrowed:
    """What a file takes of a model's sizes.

    Attributes:
        inputs: of the model, with the names of dimensions that may vary.
        outputs: likewise.
        dims: the dimensions that vary less in the file than in the model, in the range that it takes.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[Dim, ...] = ()

    def refused(self, feeds: Feeds) -> str:
        """Say which size the file does not take, not in pieces either; nothing where it takes all.

        >>> x, y = TensorSpec("x", "float32", ("b", 3, "h")), TensorSpec("y", "float32", ("b", 3))
        >>> Narrowed((x,), (y,), (Dim("b", 1, 1), Dim("h", 8, 8))).refused({"x": np.zeros((2, 3, 9))})
        'h=9, and this file takes 8'
        """
        for dim in self.dims:
            for size in sorted(self._sizes(dim.name, feeds)):
                if not dim.admits(size) and (not self.counts_items(dim.name) or self._pieces(dim, size) is None):
                    return f"{dim.name}={size}, and this file takes {_range(dim)}"
        return ""

    def taking(self, run: Run) -> Run:
        """Give a run that takes what the model takes, as far as nothing of it is refused."""
        if not self.dims:
            return run

        def in_pieces(feeds: Feeds) -> dict[str, Array]:
            for dim in self.dims:
                for size in self._sizes(dim.name, feeds):
                    if not dim.admits(size) and (pieces := self._pieces(dim, size)) is not None:
                        return _together([run(self._part(dim.name, feeds, low, high)) for low, high in pieces])
            return run(feeds)

        return in_pieces

    def fitting(self, cases: Iterable[Case]) -> tuple[tuple[Case, ...], tuple[str, ...]]:
        """Choose the cases that the file takes, and say of each other why it is left out."""
        kept, left = list[Case](), list[str]()
        for case in cases:
            if why := self.refused(case.inputs):
                left.append(f"{case.name}: {why}")
            else:
                kept.append(case)
        return tuple(kept), tuple(left)

    def whole(self, cases: Sequence[Case]) -> int:
        """Find the first case that the file takes in one run, which is what a time is measured of; else the first."""
        return next((index for index, case in enumerate(cases) if self.takes(case.inputs)), 0)

    def takes(self, feeds: Feeds) -> bool:
        """Whether the file takes these sizes in one run."""
        return all(dim.admits(size) for dim in self.dims for size in self._sizes(dim.name, feeds))

    def _sizes(self, name: str, feeds: Feeds) -> set[int]:
        return {
            feeds[port.name].shape[axis]
            for port in self.inputs
            for axis, size in enumerate(port.shape)
            if size == name and port.name in feeds
        }

    def counts_items(self, name: str) -> bool:
        """Whether it is a batch: first in every output and in every input that has it, and nowhere else."""
        having = [port for port in (*self.inputs, *self.outputs) if name in port.shape]
        return all(port in having for port in self.outputs) and all(
            port.shape[0] == name and port.shape.count(name) == 1 for port in having
        )

    @staticmethod
    def _pieces(dim: Dim, size: int) -> tuple[tuple[int, int], ...] | None:
        """Cut a batch into pieces of the largest size that is taken; None where the rest of it is not.

        >>> Narrowed._pieces(Dim("b", 1, 4), 9), Narrowed._pieces(Dim("b", 4, 4), 9)
        (((0, 4), (4, 8), (8, 9)), None)
        """
        if dim.max is None or dim.max >= size or dim.max < 1:
            return None
        ends = [*range(0, size, dim.max), size]
        pieces = tuple(itertools.pairwise(ends))
        return pieces if dim.admits(pieces[-1][1] - pieces[-1][0]) else None

    def _part(self, name: str, feeds: Feeds, low: int, high: int) -> dict[str, Array]:
        counted = {port.name for port in self.inputs if port.shape and port.shape[0] == name}
        return {key: np.ascontiguousarray(value[low:high]) if key in counted else value for key, value in feeds.items()}


def _range(dim: Dim) -> str:
    if dim.max == dim.min:
        return str(dim.min)
    return f"{dim.min} to {'any size' if dim.max is None else dim.max}{f' by {dim.step}' if dim.step > 1 else ''}"


def _together(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Put the outputs of the pieces of a batch together; an output that a piece lacks stays missing.

    >>> _together([{"y": np.zeros((2, 3))}, {"y": np.ones((1, 3))}])["y"].shape
    (3, 3)
    """
    names = set(parts[0]).intersection(*parts)
    return {name: _joined([part[name] for part in parts]) for name in parts[0] if name in names}


def _joined(values: Sequence[Array]) -> Array:
    # What does not fit together is given as it came: the comparison says what is wrong with it.
    first = values[0]
    fits = all(value.ndim == first.ndim and value.ndim and value.shape[1:] == first.shape[1:] for value in values)
    return np.concatenate(values) if fits else first
