"""Tensors as NumPy arrays; bfloat16, which NumPy has not, as the float32 numbers that ``bundle.elements`` means."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attn_export.types import Array


def array(value: Tensor) -> Array:
    """Give the array of a tensor."""
    made: Array = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return made


def arrays(values: Mapping[str, Tensor]) -> dict[str, Array]:
    """Give the arrays of tensors by name."""
    return {name: array(value) for name, value in values.items()}


def tensor(values: Array, dtype: str) -> Tensor:
    """Give the tensor of an array, in an element type as a model names it."""
    kind: torch.dtype = getattr(torch, dtype)
    return torch.from_numpy(values).to(kind)
