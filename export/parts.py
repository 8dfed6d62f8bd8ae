"""All parts of a module, those too that PyTorch does not know of: modules in plain lists, tuples and dicts."""

from __future__ import annotations

import contextlib

from torch import nn
from torch.utils._pytree import tree_leaves_with_path


def parts(module: nn.Module) -> dict[str, nn.Module]:
    """List a module and all its parts by name, each once."""
    found = dict(module.named_modules())
    seen = {id(part) for part in found.values()}
    for name, part in list(found.items()):
        for place, inner in _kept(part):
            for below, deeper in parts(inner).items() if id(inner) not in seen else ():
                if id(deeper) not in seen:
                    seen.add(id(deeper))
                    found[".".join(filter(None, (name, place, below)))] = deeper
    return found


def hidden(module: nn.Module) -> dict[str, nn.Module]:
    """List the parts in plain lists, tuples or dicts, which ``eval()``, ``double()`` and checkpoints pass by."""
    known = {id(part) for part in module.modules()}
    return {name: part for name, part in parts(module).items() if id(part) not in known}


def evaluating(module: nn.Module) -> nn.Module:
    """Put a module and all its parts in evaluation mode; a program of ``torch.export`` has the mode it was made in."""
    for part in (module, *hidden(module).values()):
        with contextlib.suppress(NotImplementedError):
            part.eval()
    return module


def _kept(part: nn.Module) -> list[tuple[str, nn.Module]]:
    """List the modules in a part's plain attributes."""
    rows = []
    for name, value in vars(part).items():
        if not name.startswith("_") and isinstance(value, (list, tuple, dict)):
            for path, leaf in tree_leaves_with_path(value):
                if isinstance(leaf, nn.Module):
                    rows.append(
                        (".".join((name, *(str(getattr(key, "key", getattr(key, "idx", ""))) for key in path))), leaf)
                    )
    return rows
