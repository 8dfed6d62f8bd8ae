"""The network as other exporters want it: tensors in by position, tensors out in order, fused, in eval mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attn_export.errors import ExportError, FusionError
from attn_export.export.binding import bound
from attn_export.export.copies import copied
from attn_export.export.outputs import flatten
from attn_export.export.subject import Subject
from attn_export.reparam.fuse_torch import fuse_module
from attn_export.types import Dim

#: The largest error of a fused module in float64: its trace holds constants as float32 rounds them, which the module
#: itself may know better (GFNet's transform). Every file is proven on the cases besides.
ROUNDED = 2.0**-23


class Positional(nn.Module):
    """A module that takes tensors in the order of its inputs' names, and gives them in that of its outputs'."""

    def __init__(self, module: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the module."""
        inputs = dict(zip(self.inputs, tensors, strict=True))
        positional, keywords = bound(self.module, inputs)
        found = flatten(self.module(*positional, **keywords), inputs)
        return tuple(found[name] for name in self.outputs)


@dataclass(frozen=True)
class TorchProgram:
    """A module that ``torch.export`` takes.

    Attributes:
        module: takes tensors by position and gives a tuple of them, in the order of the contract.
        example: inputs to trace it with.
        axes: for each input, which axis is which dimension that may vary.
        dims: those dimensions, in the range that the export holds for.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    axes: tuple[dict[int, str], ...]
    dims: tuple[Dim, ...]

    def at(self, fixed: Sequence[Dim]) -> tuple[Tensor, ...]:
        """Give the example cut to fixed sizes, none of which is larger than its own."""
        sizes = {dim.name: dim.min for dim in fixed}
        cut = []
        for tensor, named in zip(self.example, self.axes, strict=True):
            for axis, name in named.items():
                tensor = tensor.narrow(axis, 0, sizes.get(name, tensor.shape[axis]))  # noqa: PLW2901  # cut once more
            cut.append(tensor.contiguous())
        return tuple(cut)


def torch_program(
    subject: Subject,
    outputs: Sequence[str],
    dims: Sequence[Dim],
    *,
    fuse: bool,
    fuse_cost: str = "cpu",
    keep_branches: Sequence[str] = (),
) -> TorchProgram:
    """Make the program of a network, with the names of ``outputs`` and the dimensions of the export.

    Raises:
        ExportError: it cannot be fused as a module, or not exactly.
    """
    free = {dim.name for dim in dims}
    axes = tuple(
        {axis: size for axis, size in enumerate(item.shape) if isinstance(size, str) and size in free}
        for item in subject.inputs
    )
    module: nn.Module = Positional(copied(subject.module), [item.name for item in subject.inputs], outputs)
    module.eval()
    example = tuple(subject.example().values())
    if fuse:
        try:
            fusion = fuse_module(module, example, dynamic=_free(axes), fuse_cost=fuse_cost, keep_branches=keep_branches)
        except FusionError as error:
            raise ExportError(f"{subject.name} cannot be fused as a PyTorch module: {error}") from error
        if not fusion.certificate.worst <= ROUNDED:
            raise ExportError(
                f"fusing {subject.name} as a PyTorch module changed it: expected an error of at most {ROUNDED:g} in"
                f" float64, got {fusion.certificate.worst:.3g}"
            )
        module = fusion.model
    return TorchProgram(module, example, axes, tuple(dims))


def _free(axes: Sequence[dict[int, str]]) -> Any:
    """Say which axes may vary, as ``torch.export`` takes it of a module with ``*tensors``; None where none may."""
    if not any(axes):
        return None
    return (tuple(dict.fromkeys(free, torch.export.Dim.DYNAMIC) for free in axes),)
