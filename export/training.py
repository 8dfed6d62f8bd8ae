"""Parts that compute something else in training mode, and were left or put in it: named, instead of what follows."""

from __future__ import annotations

from torch import nn

from attn_export.errors import SubjectError
from attn_export.export.parts import parts
from attn_export.untrusted.text import few

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_SHOWN = 3


def refuse(module: nn.Module, *, ran: bool) -> None:
    """Refuse a module of which norms or dropouts are in training mode: after ``eval()``, or once forward ``ran``.

    Raises:
        SubjectError: some are.
    """
    found = {name: part for name, part in parts(module).items() if part.training and _differs(part)}
    if not found:
        return
    kinds = [f"{name or 'itself'} ({type(part).__name__})" for name, part in found.items()]
    who = "forward puts" if ran else "eval() leaves"
    mend = "take .train() out of forward" if ran else "mend its train(), which keeps eval() from its parts"
    what = (
        "takes the statistics of the batch"
        if isinstance(next(iter(found.values())), _NORMS)
        else "draws random numbers"
    )
    raise SubjectError(
        f"{type(module).__name__}: {who} {few(kinds, _SHOWN)} in training mode, where it {what}; what is"
        f" deployed is evaluation: {mend}"
    )


def _differs(part: nn.Module) -> bool:
    return isinstance(part, (*_NORMS, nn.modules.dropout._DropoutNd))
