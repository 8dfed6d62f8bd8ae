"""Border maps and where they lie: from a tensor's axes to ``(c, *space)`` of the algebra, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attn_export.reparam.algebra.layout import Layout
from attn_export.reparam.algebra.linconv import NotFusibleError
from attn_export.types import Array


def read(constant: Array, place: Layout, axis: int | None, lengths: Sequence[int]) -> Array:
    """Turn a constant that broadcasts over a tensor into a border map.

    Raises:
        NotFusibleError: it differs between batch items, or makes the tensor larger.
    """
    rank = len(place.axes)
    array = constant if axis is None else constant.reshape(-1, *(1,) * (rank - axis - 1))
    array = array.reshape(*(1,) * (rank - array.ndim), *array.shape)
    try:
        full = np.broadcast_to(array, [int(np.prod(_sizes(place, n, lengths), dtype=int)) for n in range(rank)])
    except ValueError:
        raise NotFusibleError("a constant differs between batch items, or makes the tensor larger") from None
    order = _order(place)
    split = full.reshape([n for axis_ in range(rank) for n in _sizes(place, axis_, lengths)])
    return np.ascontiguousarray(split.transpose(order)).reshape(-1, *lengths)


def lay(border_map: Array, place: Layout) -> Array:
    """Turn a border map into a constant that broadcasts over a tensor of this layout."""
    lengths, rank = border_map.shape[1:], len(place.axes)
    order = _order(place)
    atoms = [n for axis in range(rank) for n in _sizes(place, axis, lengths)]
    split = border_map.reshape([atoms[n] for n in order]).transpose(np.argsort(order))
    return np.ascontiguousarray(split).reshape(
        [int(np.prod(_sizes(place, n, lengths), dtype=int)) for n in range(rank)]
    )


def check(place: Layout) -> None:
    """Check that one border map can serve every item of a batch.

    Raises:
        NotFusibleError: the batch shares its axis with something.
    """
    for atoms in place.axes:
        if any(a.kind == "b" for a in atoms) and any(a.kind != "b" and a.size != 1 for a in atoms):
            raise NotFusibleError("a border map where batch and space share an axis", "keep the batch apart")


def _sizes(place: Layout, axis: int, lengths: Sequence[int]) -> list[int]:
    """Return the sizes of the atoms of an axis; the batch counts once."""
    sizes = []
    for atom in place.axes[axis]:
        size = 1 if atom.kind == "b" else lengths[atom.index] if atom.kind == "s" else atom.size
        assert isinstance(size, int)
        sizes.append(size)
    return sizes


def _order(place: Layout) -> list[int]:
    """Order the places of the atoms: batch and channels as they stand, then space by number."""
    atoms = place.atoms
    channels = [n for n, atom in enumerate(atoms) if atom.kind != "s"]
    return channels + sorted((n for n, a in enumerate(atoms) if a.kind == "s"), key=lambda n: atoms[n].index)
