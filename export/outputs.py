"""Run a module with inputs by name, and name what it gives."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attn_export.errors import SubjectError
from attn_export.process.guest import guest


def evaluate(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a module without gradients; its outputs by name.

    Raises:
        SubjectError: it does not run.
    """
    shapes = ", ".join(f"{k}:{'x'.join(map(str, v.shape))}" for k, v in inputs.items())
    with guest(f"{type(module).__name__} does not run on {shapes}"), torch.no_grad():
        positional, keywords = bound(module, inputs)
        return flatten(module(*positional, **keywords), inputs)


def bound(module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Split inputs into those given by position and those given by name.

    Inputs whose names are ``forward``'s own parameters go to these. Names that are the user's go by position, all of
    them.
    """
    parameters = _parameters(module)
    by_position = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    names = list(inputs)
    first = next((i for i, name in enumerate(names) if by_position[i : i + 1] != [name]), len(names))
    if by_name.issuperset(names[first:]):
        return tuple(inputs[name] for name in names[:first]), {name: inputs[name] for name in names[first:]}
    return tuple(inputs.values()), {}


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):  # compiled code has none
        return []


class GraphOutputs(dict[str, Tensor]):
    """Outputs that have names of their own, which are kept."""


def flatten(outputs: object, inputs: Iterable[str]) -> dict[str, Tensor]:
    """Name the outputs, and leave out what is None.

    Keys of dicts and fields of dataclasses and named tuples are names, joined by dots where they are nested. Without
    any, a single tensor is ``y`` and several are ``y0``, ``y1`` …; ``out`` where an input is called ``y``.

    Raises:
        SubjectError: an output is no tensor.
    """
    if isinstance(outputs, GraphOutputs):
        return dict(outputs)
    taken = set(inputs)
    stem = "out" if any(re.fullmatch(r"y\d*", name) for name in taken) else "y"
    leaves = list(_leaves(outputs, ()))
    if not leaves:
        raise SubjectError("expected forward to give a tensor, or a tuple or dict of tensors; got none")
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
    """Say which places of the outputs hold None, so that no output is made of them."""
    return [".".join(map(str, path)) or "the output" for path, value in _walk(outputs, ()) if value is None]


def _leaves(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Tensor]]:
    for place, leaf in _walk(value, path):
        if isinstance(leaf, Tensor):
            yield place, leaf
        elif leaf is not None:
            where = f" at {'.'.join(map(str, place))}" if place else ""
            raise SubjectError(
                f"expected forward to give tensors in tuples, lists, dicts or dataclasses; got a"
                f" {type(leaf).__name__}{where}"
            )


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
