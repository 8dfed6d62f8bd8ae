"""PyTorch's table of operators for ONNX, made once for a process instead of once for every export.

The exporter makes it anew each time, from hundreds of functions whose signatures it reads: more than half of what a
small module takes. It depends on the opset and on which operators PyTorch knows, which a library that is imported
between two exports adds to, and on nothing else while no export adds functions of its own; ours add none.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Let exports inside share the table; where PyTorch has moved it, they run as they would: slower, and right."""
    registry = _registry()
    if registry is None:
        yield
        return
    make = registry.from_torchlib

    def shared(*arguments: Any, **named: Any) -> Any:
        return _table(make, arguments, tuple(sorted(named.items())), _known())

    with mock.patch.object(registry, "from_torchlib", staticmethod(shared)):
        yield


def _registry() -> Any:
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return None
    return ONNXRegistry if hasattr(ONNXRegistry, "from_torchlib") else None


def _known() -> int:
    """Count the operators that PyTorch knows: libraries only ever add some."""
    return len(torch._C._dispatch_get_all_op_names())


@functools.lru_cache(maxsize=4)
def _table(make: Any, arguments: tuple[Any, ...], named: tuple[tuple[str, Any], ...], _operators: int) -> Any:
    return make(*arguments, **dict(named))
