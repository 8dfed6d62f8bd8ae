"""The certificate of a whole module: fused and original in float64, on the same inputs, over every output."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from attn_export.reparam.proof.certify import relative_error


def compare(module: nn.Module, fused: nn.Module, example: tuple[Any, ...]) -> float:
    """Return the largest relative error in float64 over all outputs; ``fused`` is in float64 already."""
    wide = in_float64(example)
    with torch.no_grad():
        expected, got = list(_tensors(copy.deepcopy(module).double()(*wide))), list(_tensors(fused(*wide)))
    errors = [relative_error(g, w) for g, w in zip(got, expected, strict=True)]
    return max(errors, key=lambda e: (e != e, e), default=0.0)


def in_float64(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Widen the floating-point tensors among the inputs."""
    return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in example)


def _tensors(outputs: object) -> Iterable[Tensor]:
    for leaf in torch.utils._pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf if leaf.is_floating_point() else leaf.double()
