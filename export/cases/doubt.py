"""Whether a case says anything: where correct runs part for no reason, a wrong one cannot be told from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from attn_export.bundle import FLOOR, Case, norm
from attn_export.export.cases.kinds import UNSTEADY

Run = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
#: How far inputs are moved, as a share of themselves and by itself, and how far outputs may then move.
_SHARE, _STEP, _MOST = 1e-5, 1e-6, 2e-4
#: How many times less exact than usually float32 may be.
_WORSE = 4
#: How far float32 rounds.
_ROUNDING = 6e-8


def doubtful(case: Case, kind: str, usual: Case, run: Run) -> str:
    """Say why an optional case of a kind says nothing, or nothing.

    ``usual`` is a case of normal numbers, which shows how large outputs are; ``run`` is the module in float32.

    Ties are the reason most of the time: of equal numbers a runtime may sort, choose or round any one first.
    """
    if any(v.dtype.kind == "f" and not np.isfinite(v).all() for v in case.reference.values()):
        return "the reference itself is not finite there"
    if kind in UNSTEADY and _strays(case, usual):
        return "rounding is magnified there"
    if kind in UNSTEADY and _moves(case, usual, run):
        return "the smallest change of an input changes the outputs there"
    return ""


def _strays(case: Case, usual: Case) -> bool:
    """Whether float32 is several times less exact than usually, or not exact anyway: then runtimes differ likewise."""

    def share(of: Case, name: str) -> float:
        size = norm(of.reference[name])
        return max(of.float32_error[name] / size, FLOOR / 8) if size else 0.0

    return any(
        share(usual, name) > FLOOR or share(case, name) > _WORSE * share(usual, name)
        for name in case.reference
        if share(usual, name)
    )


def _moves(case: Case, usual: Case, run: Run) -> bool:
    """Whether outputs jump where inputs move a little, or leave what they are held to where inputs are rounded."""
    random = np.random.default_rng(0)
    return any(
        not _near(case, run(_moved(case, share, step, random)), usual, most)
        for share, step, most in ((_SHARE, _STEP, _MOST), (_SHARE, _STEP, _MOST), (_ROUNDING, 0.0, None))
    )


def _moved(case: Case, share: float, step: float, random: np.random.Generator) -> dict[str, Tensor]:
    """Move floats by a share of themselves, and by a step."""
    found = {}
    for name, value in case.inputs.items():
        if value.dtype.kind == "f":
            noise = random.standard_normal((2, *value.shape))
            value = np.asarray(value * (1 + share * noise[0]) + step * noise[1], value.dtype)  # noqa: PLW2901
        found[name] = torch.from_numpy(value)
    return found


def _near(case: Case, came: Mapping[str, Tensor], usual: Case, most: float | None) -> bool:
    """Whether outputs are as near as a share of their size, or without one as near as float32 is held to."""
    for name, wanted in case.reference.items():
        value = came[name].numpy()
        if value.shape != wanted.shape:
            return False
        if wanted.dtype.kind != "f":
            if not np.array_equal(value, wanted):
                return False
            continue
        size = norm(wanted)
        limit = (
            most * max(size, norm(usual.reference[name])) if most else 2 * max(case.float32_error[name], FLOOR * size)
        )
        if not norm(value.astype(np.float64) - wanted) <= limit:
            return False
    return True
