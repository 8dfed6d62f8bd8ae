"""Converters that go wrong as real ones do: what they write loads and runs, and is another network than was given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from attn_export.export.converters import CONVERTERS, Converted, Source
from attn_export.export.copies import copied
from attn_export.export.torch_program import TorchProgram


class Swapped(nn.Module):
    """Takes the first two inputs for each other."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        first, second, *rest = tensors
        return tuple(self.module(second, first, *rest))


class FirstOnly(nn.Module):
    """Computes the first of a batch, and gives it for all."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = self.module(*tensors)
        return tuple(value[:1].expand(value.shape) + 0 for value in found)


def largest(module: nn.Module) -> nn.Parameter | Tensor:
    """Find the weight of most numbers."""
    return max(module.state_dict().values(), key=lambda value: value.numel() if value.ndim > 1 else 0)


def without_weights(module: nn.Module) -> nn.Module:
    """Set the largest weight to zero."""
    torch.nn.init.zeros_(largest(module))
    return module


def channel_off(module: nn.Module) -> nn.Module:
    """Make one output channel of the largest weight 5 % too large."""
    with torch.no_grad():
        largest(module)[1] *= 1.05
    return module


class Planted:
    """Another converter, given a program that ``fault`` has changed."""

    def __init__(self, name: str, fault: Callable[[nn.Module], nn.Module]) -> None:
        self.name, self.fault = name, fault

    def missing(self) -> str | None:
        return CONVERTERS[self.name].missing()

    def convert(self, source: Source) -> Converted:
        given = source.as_torch(self.name)

        def program() -> TorchProgram:
            return replace(given, module=self.fault(copied(given.module)).eval())

        return CONVERTERS[self.name].convert(replace(source, program=program))
