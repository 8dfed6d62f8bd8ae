"""Run a module in float64, whatever its code says of float32.

``double()`` converts parameters and buffers. Networks also hold tensors as plain attributes, make constants while they
run (``torch.eye(8)``, position encodings, masks), and name float32 themselves (``.float()``, ``dtype=torch.float32``):
each would either break the run or round the reference to float32 without a word.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from attn_export.export.copies import copied
from attn_export.export.parts import parts

#: Floating-point types that float64 stands for.
NARROW = frozenset({torch.float32, torch.float16, torch.bfloat16})
#: An operator that reads bits as another type: there a type is no precision.
_BITS = "view.dtype"


def doubled(module: nn.Module) -> nn.Module:
    """Copy a module with all its parameters, buffers and plain tensor attributes in float64."""
    exact = copied(module).double()
    for part in parts(exact).values():
        part.double()
        for name, value in vars(part).items():
            if not name.startswith("_") and _holds_tensors(value):
                vars(part)[name] = tree_map(_double, value)
    return exact


def double_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert floating-point inputs to float64."""
    return {name: _double(value) for name, value in inputs.items()}


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Let everything inside that would make a narrower floating-point tensor make a float64 one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widening():
            yield
    finally:
        torch.set_default_dtype(before)


class _Widening(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Replaces every narrower type that an operator is asked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator; types that it names are float64."""
        if str(func).removeprefix("aten.") == _BITS:
            return func(*args, **(kwargs or {}))
        return func(*map(_type, args), **{name: _type(value) for name, value in (kwargs or {}).items()})


def _type(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in NARROW else value


def _holds_tensors(value: object) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
