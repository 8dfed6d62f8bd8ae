"""Bring a module of bfloat16 weights to float32, which holds them exactly and which runtimes have kernels for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from attn_export.errors import SubjectError
from attn_export.export.copies import copied
from attn_export.export.outputs import called
from attn_export.export.parts import parts
from attn_export.mechanisms.spec import Input


def widened(
    module: nn.Module, items: Iterable[Input], example: Mapping[str, Tensor]
) -> tuple[nn.Module, tuple[Input, ...], str]:
    """Give the module in float32, its inputs, and a note that says so; all as they were where it has no bfloat16.

    Where the module does not run so, as its ``forward`` asks for bfloat16 in words, it is left to the exporter, which
    says where.
    """
    inputs = tuple(items)
    if not any(value.dtype == torch.bfloat16 for value in _held(module)):
        return module, inputs, ""
    made = _in_float32(module)
    try:
        called(made, {name: _wide(value) for name, value in example.items()})
    except SubjectError:
        return module, inputs, ""
    taken = [item.name for item in inputs if item.dtype == "bfloat16"]
    more = f"; {', '.join(taken)} {'is' if len(taken) == 1 else 'are'} float32 as well" if taken else ""
    note = (
        "its weights are bfloat16, for which runtimes have no kernels on a processor: it is deployed in float32, which"
        f" holds them exactly{more}"
    )
    wide = tuple(replace(item, dtype="float32") if item.dtype == "bfloat16" else item for item in inputs)
    return made, wide, note


def _held(module: nn.Module) -> Iterable[Tensor]:
    for part in parts(module).values():
        yield from part.parameters(recurse=False)
        yield from part.buffers(recurse=False)


def _in_float32(module: nn.Module) -> nn.Module:
    made = copied(module)
    for part in parts(made).values():
        for name, weight in part._parameters.items():
            if weight is not None and weight.dtype == torch.bfloat16:
                part._parameters[name] = nn.Parameter(weight.detach().float(), requires_grad=False)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else _wide(buffer)
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                vars(part)[name] = _wide(value)
    return made


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.bfloat16 else value
