"""Modules whose sizes are told by their first run: ``nn.LazyLinear`` and its kin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from attn_export.errors import SubjectError
from attn_export.export.outputs import called


def settled(module: nn.Module, inputs: Mapping[str, Tensor], seed: int) -> str:
    """Run a module once where it has lazy parts, so that they have weights, drawn from the seed; and say so.

    Raises:
        SubjectError: it does not run, or leaves some of them as they are.
    """
    if not (lazy := _lazy(module)):
        return ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        called(module, inputs)
    if left := _lazy(module):
        raise SubjectError(f"{', '.join(left)} stays without weights, as forward does not use it: take it out")
    module.requires_grad_(False)
    return f"lazy layers have taken their sizes from one run on these inputs: {', '.join(lazy)}"


def _lazy(module: nn.Module) -> list[str]:
    return [
        name or type(part).__name__
        for name, part in module.named_modules()
        if isinstance(part, LazyModuleMixin) and part.has_uninitialized_params()  # type: ignore[misc]
    ]
