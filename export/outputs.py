"""Run a module with inputs by name, and name what it gives."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from attn_export.errors import SubjectError
from attn_export.export import code_lines
from attn_export.export.binding import bound
from attn_export.export.higher_order import eager_branches
from attn_export.process.guest import guest


def evaluate(module: nn.Module, inputs: Mapping[str, Tensor], whose: str = "") -> dict[str, Tensor]:
    """Run a module without gradients; its outputs by name.

    Args:
        module: in evaluation mode.
        inputs: by name; they are left as they are, whatever forward does to its own.
        whose: run it is, where it is not the user's own.

    Raises:
        SubjectError: it does not run, or gives no tensor.
    """
    return flatten(called(module, inputs, whose), inputs)


def called(module: nn.Module, inputs: Mapping[str, Tensor], whose: str = "") -> object:
    """Run a module without gradients; what it gives, as it gives it.

    Raises:
        SubjectError: it does not run; the message names the line of the user's code, and what may help.
    """
    name = type(module).__name__
    shapes = ", ".join(f"{k}:{'x'.join(map(str, v.shape))}" for k, v in inputs.items())
    try:
        with (
            guest(f"{f'{whose} {name} fails' if whose else f'{name} does not run'} on {shapes}"),
            torch.no_grad(),
            eager_branches(),
        ):
            positional, keywords = bound(module, {name: value.clone() for name, value in inputs.items()})
            return module(*positional, **keywords)
    except SubjectError as error:
        if error.__cause__ is None:
            raise
        line, hint = code_lines.of_error(error.__cause__), _hint(str(error))
        raise SubjectError(f"{error}{f', at {line}' if line else ''}{f'; {hint}' if hint else ''}") from error.__cause__


#: By what PyTorch says, what helps.
_HINTS = {
    "scalar types: Long, Int": "give whole numbers, such as --input ids:1x16:int64[0,999]",
    "index out of range in self": "give the numbers that the table holds, such as --input ids:1x16:int64[0,999]",
    "not compiled with CUDA": "forward moves tensors to a GPU: write x.device instead",
    "c10::Half) should be": "convert the weights, .float(), or give --input x:…:float16",
    "Float but found Half": "convert the weights, .float(), or give --input x:…:float16",
    "Float but found BFloat16": "forward asks for bfloat16: let it take x.dtype, and the weights be float32",
    "double) should be": "convert the weights, .float(), or give --input x:…:float64",
}


def _hint(text: str) -> str:
    return next((hint for words, hint in _HINTS.items() if words in text), "")


class GraphOutputs(dict[str, Tensor]):
    """Outputs that have names of their own, which are kept."""


def flatten(outputs: object, inputs: Iterable[str]) -> dict[str, Tensor]:
    """Name the outputs, and leave out what is no tensor.

    Keys of dicts and fields of dataclasses and named tuples are names, joined by dots where they are nested. Without
    any, a single tensor is ``y`` and several are ``y0``, ``y1`` …; ``out`` where an input is called ``y``.

    Raises:
        SubjectError: none is a tensor.
    """
    if isinstance(outputs, GraphOutputs):
        return dict(outputs)
    taken = set(inputs)
    stem = "out" if any(re.fullmatch(r"y\d*", name) for name in taken) else "y"
    leaves = [(path, value) for path, value in _walk(outputs, ()) if isinstance(value, Tensor)]
    if not leaves:
        given = ", ".join(left_out(outputs)) or "nothing"
        raise SubjectError(
            f"expected forward to give tensors, alone or in tuples, lists, dicts or dataclasses; got {given}"
        )
    if not any(isinstance(part, str) for path, _ in leaves for part in path):
        items = [item for _, item in leaves]
        return {stem if len(items) == 1 else f"{stem}{i}": item for i, item in enumerate(items)}
    found: dict[str, Tensor] = {}
    for path, item in leaves:
        name = ".".join(str(part) for part in path)
        name = f"{stem}{name}" if isinstance(path[0], int) else name
        found[f"{name}_{stem}" if name in taken or name in found else name] = item
    return found


def left_out(outputs: object) -> list[str]:
    """Say which places of the outputs hold no tensor, and what they hold: no output is made of them."""
    rows = [(".".join(map(str, path)), value) for path, value in _walk(outputs, ()) if not isinstance(value, Tensor)]
    return [f"{place} ({_kind(value)})" if place else _kind(value) for place, value in rows]


def exportable(outputs: object) -> bool:
    """Whether the exporter takes what forward gives: tensors alone, in containers that it knows."""
    return all(isinstance(leaf, Tensor) for leaf in tree_leaves(outputs))


def _kind(value: object) -> str:
    if value is None:
        return "None"
    return f"{type(value).__name__} {value}" if isinstance(value, (bool, int, float)) else type(value).__name__


def _walk(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield what is no container, with its path."""
    parts: Iterable[tuple[str | int, Any]]
    if isinstance(value, Mapping):
        parts = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (tuple, list)):
        parts = list(enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    else:
        yield path, value
        return
    for key, item in parts:
        yield from _walk(item, (*path, key))
