"""Between NumPy and PyTorch, without copies where none are needed, and without making a scalar a vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def tensor_of(array: NDArray[Any] | None) -> torch.Tensor:
    """Return the same numbers as a tensor.

    >>> tensor_of(np.float64(2.0)).shape
    torch.Size([])
    """
    assert array is not None
    plain = np.asarray(array, order="C")
    return torch.from_numpy(plain if plain.flags.writeable else plain.copy())


def array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """Return the same numbers as an array."""
    return np.asarray(tensor.numpy())
