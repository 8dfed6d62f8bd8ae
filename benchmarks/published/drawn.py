"""Weights and inputs that can be drawn again anywhere: from the name of a tensor and its shape alone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor


def tensor(name: str, shape: Sequence[int]) -> Tensor:
    """Draw one tensor of weights, awake: variances and scales near one, matrices by their fan-in.

    >>> tensor("norm.running_var", (3,)).min() > 0
    tensor(True)
    """
    drawn = np.random.Generator(np.random.Philox(zlib.crc32(name.encode()))).standard_normal(prod(shape))
    if name.endswith("running_var"):
        drawn = 0.5 + np.abs(drawn)
    elif len(shape) > 1 and prod(shape[1:]) > 1:
        drawn = drawn / np.sqrt(prod(shape[1:]))
    elif name.endswith((".weight", ".gamma", ".alpha")):
        drawn = 1 + 0.3 * drawn
    else:
        drawn = 0.5 * drawn
    return torch.from_numpy(drawn.reshape(tuple(shape)))


def state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Draw the tensors of a state dict."""
    return {name: tensor(name, shape) for name, shape in shapes.items()}


def inputs(shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Draw inputs."""
    return [tensor(f"input {i}", (*shape, 1)).reshape(tuple(shape)) * 2 for i, shape in enumerate(shapes)]


def probes(output: Tensor, count: int = 24) -> list[float]:
    """Read an output at places spread over it, and its sum and largest magnitude."""
    flat = output.detach().flatten().to(torch.float64)
    places = np.linspace(0, flat.numel() - 1, min(count, flat.numel())).astype(int)
    return [*(float(flat[place]) for place in places), float(flat.sum()), float(flat.abs().max())]
