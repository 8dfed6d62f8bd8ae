"""Run a module, and name what it gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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
        return flatten(module(*inputs.values()), inputs)


class GraphOutputs(dict[str, Tensor]):
    """Outputs that have names of their own, which are kept."""


def flatten(outputs: object, inputs: Iterable[str]) -> dict[str, Tensor]:
    """Name the outputs: ``y``, or ``y0``, ``y1`` … where there are several; ``out`` where an input is called ``y``.

    Raises:
        SubjectError: an output is no tensor.
    """
    if isinstance(outputs, GraphOutputs):
        return dict(outputs)
    items = _leaves(outputs)
    if not items:
        raise SubjectError("expected forward to give a tensor, or a tuple or dict of tensors; got none")
    stem = "out" if any(re.fullmatch(r"y\d*", name) for name in inputs) else "y"
    return {stem if len(items) == 1 else f"{stem}{i}": item for i, item in enumerate(items)}


def _leaves(value: object) -> list[Tensor]:
    match value:
        case Tensor():
            return [value]
        case tuple() | list():
            return [leaf for item in value for leaf in _leaves(item)]
        case Mapping():
            return [leaf for item in value.values() for leaf in _leaves(item)]
        case _:
            raise SubjectError(
                f"expected forward to give tensors in tuples, lists or dicts; got a {type(value).__name__}"
            )
