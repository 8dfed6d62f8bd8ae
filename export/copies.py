"""Copy a module with all that its parts hold, the functions too that hold the module itself.

``copy.deepcopy`` takes a function as it is. A hook such as ``lambda module, x, y: self.seen.append(y)`` then writes
into the original, whatever copy it is called on, and forward finds nothing in its own.
"""

from __future__ import annotations

import copy
import types
from typing import Any, TypeVar
from unittest.mock import patch

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """Copy a module; nothing that the copy does changes the original."""
    known: dict[type, Any] = copy._deepcopy_dispatch  # type: ignore[attr-defined]
    with patch.dict(known, {types.FunctionType: _function}):
        return copy.deepcopy(module)


def _function(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """Copy a function that holds modules, or containers, which the module may hold as well."""
    try:
        held = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a name that has no value yet
        return function
    if not any(isinstance(value, nn.Module | list | dict) for value in held) or _is_ours(function):
        return function
    try:
        cells = tuple(types.CellType(copy.deepcopy(value, memo)) for value in held)
    except TypeError:  # it holds something that cannot be copied
        return function
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def _is_ours(function: types.FunctionType) -> bool:
    """Whether it is of the evaluator that runs ONNX graphs: such hold operators and weights, and no module."""
    return (function.__module__ or "").partition(".")[0] in ("attn_export", "onnx")
