"""Make a user's module one that can be copied, run in another precision and exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves, tree_map

from attn_export.errors import SubjectError
from attn_export.export.parts import parts

#: Classes that wrap a module, each with the attribute that holds it.
_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


def unwrapped(module: nn.Module, called: str) -> nn.Module:
    """Take a module out of what was put around it for speed or training, and detach what gradients hang on.

    ``torch.compile`` and ``DataParallel`` wrap; the old ``weight_norm`` keeps a computed weight, which cannot be
    copied.

    Raises:
        SubjectError: it, or a part of it, is TorchScript, which has no source to trace.
    """
    while isinstance(inner := getattr(module, _WRAPPERS.get(type(module).__name__, ""), None), nn.Module):
        module = inner
    if type(module).__module__.startswith("torch.jit"):
        raise SubjectError(
            f"expected a module with its Python code, got {called}, which is TorchScript (torch.jit.trace or script);"
            " PyTorch's exporter takes none: give the class that it was made of, with its weights by --weights"
        )
    for place, part in parts(module).items():
        if type(part).__module__.startswith("torch.jit"):
            raise SubjectError(
                f"{place} of {called} is TorchScript (torch.jit.trace or script), which PyTorch's exporter cannot"
                " trace: put the module there that it was made of"
            )
        for name, value in vars(part).items():
            if not name.startswith("_"):
                vars(part)[name] = tree_map(_detached, value) if _hangs(value) else value
        for parameter in part.parameters(recurse=False):
            if not is_lazy(parameter):
                parameter.requires_grad_(False)  # a hook that computes a weight would hang it on a graph again
    return module


@torch.no_grad()
def settle_weights(module: nn.Module) -> None:
    """Compute once, in place, the weights that a module computes anew in each run from others: weight norm and its kin.

    What is deployed is evaluation, where they are constants; some are made by operators that ONNX does not have.
    """
    for part in parts(module).values():
        if parametrize.is_parametrized(part):
            assert isinstance(part.parametrizations, nn.ModuleDict)
            for name in list(part.parametrizations):
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    module.requires_grad_(False)


def _hangs(value: object) -> bool:
    return any(isinstance(leaf, Tensor) and not leaf.is_leaf for leaf in tree_leaves(value))


def _detached(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) and not value.is_leaf else value
