"""What a module keeps between two calls: its weights, and the plain values that its attributes hold."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Mapping
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

#: Levels and entries of containers that are looked into.
_DEEP, _LONG = 3, 1000
_INTERNAL = frozenset(vars(nn.Module())) - {"training"}

#: By name, something that is equal as long as the value is.
State = Mapping[str, object]


def weights(module: nn.Module) -> dict[str, object]:
    """Note everything that a checkpoint would hold."""
    return {name: frozen(value) for name, value in module.state_dict().items()}


def attributes(module: nn.Module) -> dict[str, object]:
    """Note every buffer that no checkpoint holds, and every attribute that is a tensor, a number, a text or a list."""
    saved = module.state_dict()
    found = {name: frozen(value) for name, value in module.named_buffers() if name not in saved}
    for path, part in module.named_modules():
        own = {name: value for name, value in vars(part).items() if name not in _INTERNAL}
        found |= {f"{path}.{name}".lstrip("."): frozen(value) for name, value in own.items()}
    return found


def changed(before: State, after: State) -> list[str]:
    """List the names whose value is another one, or is only on one side."""
    names = [*before, *(name for name in after if name not in before)]
    return [name for name in names if before.get(name) != after.get(name)]


def frozen(value: object, depth: int = _DEEP) -> object:
    """Give something that equals another's where the values are the same; whatever is no plain value counts as one."""
    match value:
        case Tensor():
            return _of_tensor(value)
        case np.ndarray():
            return "array", str(value.dtype), value.shape, zlib.crc32(np.ascontiguousarray(value).tobytes())
        case float():
            return repr(value)  # not a number is itself
        case bool() | int() | complex() | str() | bytes() | None:
            return type(value).__name__, value
        case Random() | np.random.Generator() | np.random.RandomState() | torch.Generator():  # noqa: S311
            return _of_generator(value)
        case list() | tuple() | deque() if depth and len(value) <= _LONG:
            return type(value).__name__, tuple(frozen(item, depth - 1) for item in value)
        case set() | frozenset() if depth and len(value) <= _LONG:
            return type(value).__name__, frozenset(frozen(item, depth - 1) for item in value)
        case dict() if depth and len(value) <= _LONG:
            return "dict", tuple((frozen(k, depth - 1), frozen(v, depth - 1)) for k, v in value.items())
        case _:
            return type(value).__name__


def _of_tensor(value: Tensor) -> object:
    if is_lazy(value) or value.is_sparse or value.is_quantized or value.device.type == "meta":
        return type(value).__name__
    raw = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return "tensor", str(value.dtype), tuple(value.shape), zlib.crc32(raw.data)


def _of_generator(value: Random | np.random.Generator | np.random.RandomState | torch.Generator) -> object:
    match value:
        case Random():  # noqa: S311
            return value.getstate()
        case np.random.Generator():
            return str(value.bit_generator.state)
        case np.random.RandomState():
            return str(value.get_state(legacy=False))
        case _:
            return _of_tensor(value.get_state())
