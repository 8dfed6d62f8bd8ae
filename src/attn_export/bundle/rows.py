"""Rows that an operator chose and put in order, such as detections: pair those of a run with those of the reference.

TopK and NonMaxSuppression order rows by a score, and of two that are equal up to rounding float32 may put either first.
So a row of a run is compared with the row of the reference that it is, wherever it stands. What is paired is whole
rows, over all outputs that the operator chose them for: box, score and class at once. So the limits stay those of every
other output, and a row that is missing, has another class or lies elsewhere has no partner within them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from attn_export.bundle.format import SHARE, Case, Selection
from attn_export.types import Array, Ints

#: Rows of an item that are paired; of more, each is compared with the one at its place.
MOST = 2048
#: Rounds of pairing, which give all but the last few rows of what is nearly alike their partner.
_ROUNDS = 64
#: Steps from row to row that all go one way in a column that is in order: by chance one time in thirty thousand.
_STEPS = 16


def matched(
    came: Mapping[str, Array], reference: Mapping[str, Array], selections: Iterable[Selection]
) -> dict[str, Array]:
    """Put the chosen rows of a run in the order of the reference's; what has another shape stays as it is."""
    found = dict(came)
    for group in _groups(came, reference, selections):
        orders = [
            _order(*(np.concatenate([one[item] for one in side], axis=1) for side in group.scaled))
            for item in range(group.items)
        ]
        for name, axis in group.axes.items():
            parts = _parted(came[name], axis)
            found[name] = np.stack([part[order] for part, order in zip(parts, orders, strict=True)]).reshape(
                came[name].shape
            )
    return found


def apart(came: Mapping[str, Array], reference: Mapping[str, Array], selections: Sequence[Selection]) -> float:
    """How far the rows of a run lie from their partners, in root mean squares of a column; infinite without partners.

    Two runs that chose the same rows are apart by their rounding, others by what rows differ in.
    """
    names = {name for selection in selections for name in selection.rows}
    if any(came[name].shape != reference[name].shape for name in names):
        return float("inf")
    found = matched(came, reference, selections)
    return max(
        (
            float(np.abs(one - other).max(initial=0.0))
            for group in _groups(found, reference, selections)
            for one, other in zip(*group.scaled, strict=True)
        ),
        default=0.0,
    )


def disordered(
    came: Mapping[str, Array], reference: Mapping[str, Array], selections: Iterable[Selection]
) -> dict[str, str]:
    """Say of which outputs a column that is in order in every case, such as scores, is in another one in a run.

    Rows may change places where what orders them is nearly equal, and then this column is the same place by place.
    """
    found = {}
    for selection in selections:
        for name, columns in selection.ordered.items():
            axis, value = selection.rows[name], came.get(name)
            if value is None or value.shape != reference[name].shape or axis >= value.ndim:
                continue
            ours, theirs = (_parted(side, axis).astype(np.float64) for side in (value, reference[name]))
            for column in (column for column in columns if column < theirs.shape[2]):
                off, size = (float(np.linalg.norm(v[..., column])) for v in (ours - theirs, theirs))
                if not off <= SHARE * size:
                    found[name] = (
                        f"column {column} of its rows, which is in order in every case, is in another one"
                        f" (it differs by {off / size if size else np.inf:.2g} of its norm, place by place)"
                    )
    return found


def with_order(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Note which columns are in order in every case, over enough rows that it is no chance: those rows go by."""
    chosen = tuple(replace(one, ordered=_ordered(cases, one)) for one in (cases[0].selections if cases else ()))
    return tuple(replace(case, selections=chosen) for case in cases)


def _ordered(cases: Sequence[Case], selection: Selection) -> dict[str, tuple[int, ...]]:
    found = {}
    for name, axis in selection.rows.items():
        values = [_parted(case.reference[name], axis) for case in cases]
        if values[0].dtype.kind != "f" or len({value.shape[2] for value in values}) > 1:
            continue
        with np.errstate(invalid="ignore"):
            steps = np.concatenate([np.diff(v.astype(np.float64), axis=1).reshape(-1, v.shape[2]) for v in values])
        falling, rising = (steps < 0).sum(0), (steps > 0).sum(0)
        columns = np.flatnonzero((np.minimum(falling, rising) == 0) & (falling + rising >= _STEPS))
        if columns.size:
            found[name] = tuple(int(column) for column in columns)
    return found


class _Group:
    """Outputs of one selection with as many items and rows each."""

    def __init__(
        self, axes: Mapping[str, int], came: Mapping[str, Array], reference: Mapping[str, Array], items: int
    ) -> None:
        self.axes, self.items = axes, items
        pairs = [_scaled(_parted(came[name], axis), _parted(reference[name], axis)) for name, axis in axes.items()]
        self.scaled = [one for one, _ in pairs], [other for _, other in pairs]


def _groups(
    came: Mapping[str, Array], reference: Mapping[str, Array], selections: Iterable[Selection]
) -> Iterator[_Group]:
    for selection in selections:
        sizes: dict[tuple[int, int], dict[str, int]] = {}
        for name, axis in selection.rows.items():
            ours, theirs = came.get(name), reference[name]
            if ours is not None and ours.shape == theirs.shape and axis < ours.ndim and theirs.size:
                items, count, _ = _parted(theirs, axis).shape
                sizes.setdefault((items, count), {})[name] = axis
        for (items, count), axes in sizes.items():
            if count <= MOST:
                yield _Group(axes, came, reference, items)


def _parted(values: Array, axis: int) -> Array:
    """Give them as items, rows and columns."""
    lead = int(np.prod(values.shape[:axis]))
    return values.reshape(lead, values.shape[axis], int(np.prod(values.shape[axis + 1 :])))


def _scaled(came: Array, reference: Array) -> tuple[Array, Array]:
    """Divide each column by the root mean square that it has in the reference; what is not finite counts as zero."""
    ours, theirs = (np.where(np.isfinite(v), v, 0.0).astype(np.float64) for v in (came, reference))
    with np.errstate(over="ignore"):
        size = np.sqrt(np.mean(np.square(theirs), axis=(0, 1)))
    size = np.where((size > 0) & np.isfinite(size), size, 1.0)
    return ours / size, theirs / size


def _order(came: Array, reference: Array) -> Ints:
    """For each row of the reference the row of a run that is nearest to it, none twice: nearest pairs first."""
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.square(reference).sum(1)[:, None] + np.square(came).sum(1)[None] - 2 * reference @ came.T
    distance = np.nan_to_num(distance, nan=np.inf)
    own = np.einsum("ij,ij->i", reference - came, reference - came)
    np.fill_diagonal(distance, np.minimum(own, np.diagonal(distance)) - 1e-12)  # of equal ones, the one at its place
    order, left = np.arange(len(reference)), np.arange(len(reference))
    free = left
    for _ in range(_ROUNDS):
        if not len(left):
            break
        part = distance[np.ix_(left, free)]
        nearest, back = part.argmin(1), part.argmin(0)
        mutual = back[nearest] == np.arange(len(left))
        order[left[mutual]] = free[nearest[mutual]]
        left, free = left[~mutual], np.delete(free, nearest[mutual])
    order[left] = free
    return order
