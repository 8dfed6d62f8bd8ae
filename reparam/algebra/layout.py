"""Where batch, channels and space are in a tensor: each axis is a tuple of atoms.

A tensor ``(b, c, h, w)`` flattened and transposed to ``(b, h·w, c)`` is still one convolution of its root, as long
as no spatial atom is cut. The channels of a value are numbered row-major over its channel atoms, in the order in
which they stand in the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from attn_export.reparam.algebra.linconv import NotFusibleError
from attn_export.reparam.types import Dim
from attn_export.types import Array, Ints


@dataclass(frozen=True)
class Atom:
    """A piece of an axis: batch number ``index``, spatial axis number ``index``, or a piece of the channels."""

    kind: Literal["b", "c", "s"]
    index: int
    size: Dim


AxisAtoms = tuple[Atom, ...]


@dataclass(frozen=True)
class Layout:
    """The atoms of each axis of a tensor."""

    axes: tuple[AxisAtoms, ...]

    @property
    def channel_sizes(self) -> list[int]:
        """Sizes of the channel atoms in order."""
        return [_int(a) for a in self.atoms if a.kind == "c"]

    @property
    def atoms(self) -> list[Atom]:
        """All atoms in order."""
        return [a for axis in self.axes for a in axis]

    def is_channel(self, axis: int) -> bool:
        """Whether the axis holds channels only (atoms of size 1 do not count)."""
        return all(a.kind == "c" or a.size == 1 for a in self.axes[axis])

    def width(self, axis: int) -> int:
        """How many channels lie along the axis."""
        return int(np.prod([_int(a) for a in self.axes[axis] if a.kind == "c"], dtype=int))

    def along(self, axis: int) -> tuple[int, int, int]:
        """Count channels around an axis: how many before it, along it, and after it."""
        before = int(np.prod([self.width(a) for a in range(axis)], dtype=int))
        after = int(np.prod([self.width(a) for a in range(axis + 1, len(self.axes))], dtype=int))
        return before, self.width(axis), after

    def spatial(self, axis: int) -> int | None:
        """Return the spatial axis that lies alone along the tensor's axis; None for an axis of size 1.

        Raises:
            NotFusibleError: something else lies there as well.
        """
        match [a for a in self.axes[axis] if a.kind == "s" or a.size != 1]:
            case []:
                return None
            case [Atom(kind="s", index=index)]:
                return index
        raise NotFusibleError("it works along an axis into which space and something else were merged")

    def same(self, other: Layout) -> bool:
        """Whether both put the same things in the same places."""
        return len(self.axes) == len(other.axes) and all(
            _signature(a) == _signature(b) for a, b in zip(self.axes, other.axes, strict=True)
        )

    def is_channels_first(self, channels: int) -> bool:
        """Whether the tensor is ``(b, c, *space)``; where an axis has size 1, nothing else can be told of it."""
        space = [("s", n, 0) for n in range(len(self.axes) - 2)]
        plain = [("b", 0, 0), ("c", 0, channels), *space]
        return len(self.axes) >= 2 and all(_signature(a) in ([], [k]) for a, k in zip(self.axes, plain, strict=True))

    def same_order(self, other: Layout) -> bool:
        """Whether both put the same things in the same order, however they are grouped into axes."""
        return _signature(tuple(self.atoms)) == _signature(tuple(other.atoms))

    def resized(self, shape: Sequence[Dim] | None) -> Layout:
        """Take sizes of batch and space from a tensor's shape where one atom fills an axis."""
        if shape is None or len(shape) != len(self.axes):
            return self
        axes = list(self.axes)
        for number, (atoms, size) in enumerate(zip(self.axes, shape, strict=True)):
            if len(atoms) == 1 and atoms[0].kind != "c" and size is not None:
                axes[number] = (replace(atoms[0], size=size),)
        return Layout(tuple(axes))

    def with_width(self, axis: int, size: int) -> Layout:
        """Make the axis one channel atom of another size."""
        return Layout((*self.axes[:axis], (Atom("c", 0, size),), *self.axes[axis + 1 :]))


def _int(atom: Atom) -> int:
    assert isinstance(atom.size, int)
    return atom.size


def _signature(axis: AxisAtoms) -> list[tuple[str, int, int]]:
    """Merge neighbouring channel atoms; sizes of batch and space are known elsewhere."""
    result: list[tuple[str, int, int]] = []
    for atom in axis:
        if atom.kind == "c":
            if atom.size == 1:
                continue
            if result and result[-1][0] == "c":
                result[-1] = ("c", 0, result[-1][2] * _int(atom))
                continue
            result.append(("c", 0, _int(atom)))
        elif atom.size != 1:
            result.append((atom.kind, atom.index, 0))
    return result


def channels_first(shape: Sequence[Dim]) -> Layout | None:
    """Read a tensor as ``(b, c, *space)``; None if it cannot be read so."""
    if len(shape) < 2 or not isinstance(shape[1], int):
        return None
    space = tuple((Atom("s", n, size),) for n, size in enumerate(shape[2:]))
    return Layout(((Atom("b", 0, shape[0]),), (Atom("c", 0, shape[1]),), *space))


def channels_last(shape: Sequence[Dim]) -> Layout | None:
    """Read a tensor as ``(b, *space, c)``; None if it cannot be read so, or for two axes, where both are one."""
    if len(shape) < 3 or not isinstance(shape[-1], int):
        return None
    space = tuple((Atom("s", n, size),) for n, size in enumerate(shape[1:-1]))
    return Layout(((Atom("b", 0, shape[0]),), *space, (Atom("c", 0, shape[-1]),)))


def by_channel(constant: Array, place: Layout, axis: int | None) -> Array:
    """Spread a broadcast constant over the channels.

    Raises:
        NotFusibleError: it differs between positions or between batch items, or makes the tensor larger.
    """
    rank = len(place.axes)
    array = constant if axis is None else constant.reshape(-1, *(1,) * (rank - axis - 1))
    if array.ndim > rank:
        if any(n != 1 for n in array.shape[: array.ndim - rank]):
            raise NotFusibleError("a constant of higher rank makes the tensor larger")
        array = array.reshape(array.shape[array.ndim - rank :])
    array = array.reshape(*(1,) * (rank - array.ndim), *array.shape)
    for number in range(rank):
        size, channels = array.shape[number], place.width(number)
        if size == 1:
            continue
        if place.is_channel(number) and size == channels:
            continue
        if any(a.kind != "c" and a.size == size for a in place.axes[number]) and channels == 1:
            first = array.take([0], axis=number)
            if np.array_equal(np.broadcast_to(first, array.shape), array):
                array = first
                continue
            raise NotFusibleError(
                "a constant differs between positions or batch items", "a constant for each channel can be folded"
            )
        raise NotFusibleError("a constant does not lie along the channels, or makes the tensor larger")
    sizes = [place.width(n) for n in range(rank)]
    return np.ascontiguousarray(np.broadcast_to(array, sizes)).reshape(-1)


def transpose(layout: Layout, perm: Sequence[int]) -> tuple[Layout, Ints | None]:
    """Permute axes; says how the channels are to be re-numbered, or None if they are not."""
    result = Layout(tuple(layout.axes[p] for p in perm))
    sizes = [layout.width(a) for a in range(len(layout.axes))]
    index = np.arange(int(np.prod(sizes, dtype=int))).reshape(sizes).transpose(list(perm)).reshape(-1)
    return result, None if np.array_equal(index, np.arange(len(index))) else index


def reshape(layout: Layout, shape: Sequence[Dim]) -> Layout:
    """Regroup atoms into axes of the given sizes; channels may be cut, batch and space may not.

    Raises:
        NotFusibleError: a spatial or batch atom would be cut, or sizes are not known well enough to say.
    """
    left = [a for a in layout.atoms if a.size != 1]
    ones = [a for a in layout.atoms if a.size == 1 and a.kind == "s"]
    axes: list[AxisAtoms | None] = [None] * len(shape)
    first, last = 0, len(shape)
    while first < last:
        taken = _take(left, shape[first])
        if taken is None:
            break
        axes[first], left = taken
        first += 1
    while first < last:  # what is unknown in the middle is found by elimination
        taken = _take(list(reversed(left)), shape[last - 1], backwards=True)
        if taken is None:
            break
        last -= 1
        axes[last], rest = taken
        left = list(reversed(rest))
    if last - first == 1:
        axes[first], left = tuple(left), []
        last = first
    if last > first or left:
        raise NotFusibleError("it is reshaped in a way that cuts space or batch, or whose sizes are not known")
    # A lone axis of size 1 stays the spatial axis it was, so that a convolution after it finds its place.
    for number, axis in enumerate(axes):
        if axis == () and ones and number >= len(shape) - len(ones) and len(shape) == len(layout.axes):
            axes[number] = (ones[number - len(shape)],)
    return Layout(tuple(axis for axis in axes if axis is not None))


def _take(atoms: list[Atom], size: Dim, *, backwards: bool = False) -> tuple[AxisAtoms, list[Atom]] | None:
    """Take atoms from the front whose sizes multiply to ``size``; None if that cannot be said."""
    if size is None:
        return None
    if size == 1:
        return (), atoms
    if atoms and atoms[0].size == size:
        return (atoms[0],), atoms[1:]
    taken: list[Atom] = []
    if isinstance(size, str):
        wanted = sorted(part.strip() for part in size.split("*"))
        names: list[str] = []
        for atom in atoms:
            if atom.size is None or len(names) >= len(wanted):
                break
            names += [part.strip() for part in str(atom.size).split("*")]
            taken.append(atom)
            if sorted(names) == wanted:
                return tuple(reversed(taken) if backwards else taken), atoms[len(taken) :]
        return None
    rest, todo = size, list(atoms)
    while rest > 1:
        if not todo or not isinstance(todo[0].size, int):
            return None
        atom = todo.pop(0)
        have = _int(atom)
        if rest % have == 0:
            taken.append(atom)
            rest //= have
        elif atom.kind == "c" and have % rest == 0:
            taken.append(replace(atom, size=rest))
            todo.insert(0, replace(atom, size=have // rest))
            rest = 1
        else:
            return None
    return tuple(reversed(taken) if backwards else taken), todo
