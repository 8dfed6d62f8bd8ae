"""A module of somebody else's, and the entry of ours that its weights go into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

#: Relative to the largest output: what two orders of the same sums may differ by in float64.
LIMIT = 1e-12


def far(came: Tensor, reference: Tensor) -> float:
    """Compute the largest difference, relative to the largest reference."""
    return float((reference - came).abs().max() / reference.abs().max())


def _call(module: nn.Module, *inputs: Tensor) -> Tensor:
    result: Tensor = module(*inputs)
    return result


@dataclass(frozen=True)
class Pair:
    """What is compared.

    Attributes:
        entry: of the catalogue.
        source: the name under which its weights must be recognised.
        what: the module, for people.
        module: builds it.
        shapes: of our inputs.
        arguments: of ours that the weights do not tell.
        asked: the source, where names do not tell and it has to be named.
        call: runs their module on our inputs, and brings what comes into our form.
        renamed: their name in a whole network, by that in the module.
        narrow: why their module is no float64 reference, so that the limit is 1e-6; empty where it is one.
        fixed: pattern of the names that hold constants, which are left as they are.
    """

    entry: str
    source: str
    what: str
    module: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    asked: str | None = None
    call: Callable[..., Tensor] = _call
    renamed: Callable[[str], str] | None = None
    fixed: str = ""
    narrow: str = ""
