"""Whether a case says anything: where correct runs part for no reason, a wrong one cannot be told from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from attn_export.bundle import FLOOR, SHARE, Case, Selection, norm, rows
from attn_export.export.arrays import arrays
from attn_export.export.cases.kinds import UNSTEADY
from attn_export.export.rounded_runs import ROUNDING, shifted
from attn_export.types import Array

Run = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
#: How many times further inputs are moved, the second time, than float32 rounds them.
_MORE = 16
#: The share of a move that a move so much smaller makes at most where an output is continuous.
_JUMP = 1 / 4


def doubtful(case: Case, kind: str, exact: Run, *, jumps: bool) -> str:
    """Say why an optional case of a kind says nothing, or nothing.

    ``exact`` is the module in float64, and ``jumps`` whether it has operators that may.
    """
    if any(v.dtype.kind == "f" and not np.isfinite(v).all() for v in case.reference.values()):
        return "the reference itself is not finite there"
    if jumps and kind in UNSTEADY and _jumps(case, exact):
        return "the smallest change of an input changes the outputs there"
    return ""


def unsettled(
    reference: Mapping[str, Tensor], selections: Sequence[Selection], inputs: Mapping[str, Tensor], exact: Run
) -> str:
    """Say that rounding decides which rows are chosen, or nothing: inputs that are moved a little choose others.

    Those are moved by sixteen times what float32 rounds, both ways, as further runs may round more than ours.
    """
    wide = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    wanted = arrays(reference)
    for by in (_MORE, -_MORE):
        moved = exact(shifted(wide, by * ROUNDING, 0.0, 0))
        if rows.apart(arrays(moved), wanted, selections) > SHARE:
            chosen = ", ".join(one.node for one in selections)
            return f"what {chosen} chooses there is decided by rounding: scores or overlaps are equal but for that"
    return ""


def _jumps(case: Case, exact: Run) -> bool:
    """Whether an output jumps: sixteen times less of a change does not change it sixteen times less.

    Ties are the reason most of the time: of equal numbers a runtime may sort, choose or round any one first. What is
    moved one way and then the other breaks a tie both ways.
    """
    inputs = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
    wide = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    ways = {by: exact(shifted(wide, by * ROUNDING, by * ROUNDING, 0)) for by in (1, -1)}
    changed = [(by, name) for by, run in ways.items() for name in case.reference if _changed(case, name, run)]
    if not changed:
        return False
    far = {by: exact(shifted(wide, by * ROUNDING, by * ROUNDING, 0)) for by in {by * _MORE for by, _ in changed}}
    return any(_jumped(case.reference[name], ways[by][name], far[by * _MORE][name]) for by, name in changed)


def _changed(case: Case, name: str, run: Mapping[str, Tensor]) -> bool:
    """Whether an output of a run is further from the reference than correct float32 is."""
    wanted, came = case.reference[name], run[name].numpy()
    if came.shape != wanted.shape or wanted.dtype.kind != "f":
        return not np.array_equal(came, wanted)
    return norm(came - wanted) > max(case.float32_error[name], FLOOR * norm(wanted))


def _jumped(wanted: Array, near: Tensor, far: Tensor) -> bool:
    if wanted.dtype.kind != "f" or not wanted.shape == near.shape == far.shape:
        return True
    return norm(near.numpy() - wanted) > _JUMP * norm(far.numpy() - wanted)
