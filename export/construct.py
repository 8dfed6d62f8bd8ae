"""Call a constructor of a network so that the same seed gives the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from attn_export.errors import UsageError
from attn_export.export.parts import evaluating
from attn_export.mechanisms.spec import call


def of_program(found: object) -> Any:
    """Give the module of a program of ``torch.export``, and everything else as it is."""
    if not isinstance(found, torch.export.ExportedProgram):
        return found
    # Each copy of it would say so again: PyTorch's own class of trees, which the module keeps.
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
    return found.module()


def construct(factory: object, arguments: Mapping[str, object], seed: int) -> nn.Module:
    """Call a constructor under a seed, leaving the caller's random state alone; the module comes in eval mode.

    Raises:
        UsageError: the constructor refuses the arguments, or what it gives is no module.
    """
    assert callable(factory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = factory(**arguments)
        except (TypeError, ValueError) as error:
            name = getattr(factory, "__name__", str(factory))
            raise UsageError(f"{call(name, arguments)}: {error}") from error
    module = of_program(module)
    if not isinstance(module, nn.Module):
        raise UsageError(f"expected a function or class that gives a torch.nn.Module, got a {type(module).__name__}")
    return evaluating(module)
