"""Constants that stay exact: buffers computed in float64 and rounded once to the module's dtype, whatever it becomes.

A plain buffer made in float32 keeps its rounding when the module is taken to float64, so the float64 reference would
carry float32 errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self


class Constants(nn.Module):
    """A module with constants that are functions of its sizes; they are in no state dict.

    >>> module = Constants(); module.constant("third", torch.tensor(1 / 3, dtype=torch.float64))
    >>> module.third.dtype, float(module.double().third) == 1 / 3, dict(module.state_dict())
    (torch.float32, True, {})
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def constant(self, name: str, value: Tensor) -> None:
        """Register ``value`` (float64) as the buffer ``name``."""
        self._exact[name] = value
        self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Round anew from float64 after a change of dtype or device."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in self._exact.items():
            moved: Any = getattr(self, name)
            if not moved.is_meta:
                self._buffers[name] = value.to(device=moved.device, dtype=moved.dtype)
        return self
