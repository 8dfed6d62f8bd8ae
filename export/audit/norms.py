"""The scale and shift of every batch norm of a module, as an exporter folds them into what stands before.

A norm is known by its class, or by its statistics: networks also keep ``running_mean`` and ``running_var`` themselves
and call the function, and a program of ``torch.export`` has parts without a class. Two norms that follow each other
are folded as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from torch import Tensor, nn

from attn_export.types import Array

Affine = tuple[Array, Array]
#: Epsilons of norms that do not keep theirs.
USUAL = (1e-5, 1e-3, 1e-6, 1e-4)


def of(parts: Mapping[str, nn.Module]) -> dict[str, Affine]:
    """Give every norm's scale and shift in float64, and those of two in a row."""
    single = {
        name + ("" if index == 0 else f" (eps {epsilon:g})"): _affine(part, epsilon)
        for name, part in parts.items()
        if _is_norm(part)
        for index, epsilon in enumerate(_epsilons(part))
    }
    own = {name: single[name] for name in parts if name in single}
    return single | {
        f"{one}, {other}": _after(own[one], own[other]) for one, other in pairwise(own) if _fit(own[one], own[other])
    }


def _is_norm(part: nn.Module) -> bool:
    return isinstance(getattr(part, "running_mean", None), Tensor) and isinstance(
        getattr(part, "running_var", None), Tensor
    )


def _epsilons(part: nn.Module) -> tuple[float, ...]:
    own = getattr(part, "eps", None)
    return (own,) if isinstance(own, float) else USUAL


def _affine(part: nn.Module, epsilon: float) -> Affine:
    values = {
        name: value.detach().double().cpu().numpy()
        for name in ("weight", "bias", "running_mean", "running_var")
        if isinstance(value := getattr(part, name, None), Tensor)
    }
    spread = np.sqrt(values["running_var"] + epsilon)
    fits = {name: value if value.shape == spread.shape else None for name, value in values.items()}
    scale = (1.0 if fits.get("weight") is None else values["weight"]) / spread
    return scale, (0.0 if fits.get("bias") is None else values["bias"]) - scale * values["running_mean"]


def _fit(one: Affine, other: Affine) -> bool:
    return len(one[0]) == len(other[0])


def _after(one: Affine, other: Affine) -> Affine:
    return one[0] * other[0], one[1] * other[0] + other[1]
