"""Make a subject of a module that the caller holds, with the inputs it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import Tensor, nn

from attn_export.errors import UsageError
from attn_export.export.arrays import array, tensor
from attn_export.export.binding import tensors
from attn_export.export.chosen import settle
from attn_export.export.copies import copied
from attn_export.export.subject import Subject
from attn_export.export.unwrapped import settle_weights
from attn_export.export.weights.randomize import randomize
from attn_export.export.widened import widened
from attn_export.mechanisms.spec import Dtype, Input
from attn_export.types import Dim

#: By input, what may vary: the dimension of each axis.
DynamicShapes = Mapping[str, Mapping[int, Dim]]


def from_module(
    module: nn.Module,
    args: Sequence[Any],
    *,
    dynamic: DynamicShapes | None = None,
    name: str | None = None,
    randomize_weights: bool = False,
    seed: int = 0,
    outputs: Sequence[str] = (),
) -> Subject:
    """Describe a copy of ``module`` as what goes down the pipeline; ``module`` is not changed.

    Args:
        module: in evaluation mode.
        args: what ``forward`` takes, in its order: tensors, or lists, tuples and dicts of them; the sizes at which the
            module is traced.
        dynamic: which axes of which input may vary, and in what range.
        name: what the subject is called; by default its class's name.
        randomize_weights: draw seeded random values for those that a fresh module leaves at 0 or 1.
        seed: of that.
        outputs: those to give, as ``chosen.choose`` reads them; all that are tensors without any.

    Raises:
        UsageError: the module is in training mode, an argument is no tensor or of a type that is not drawn, or
            ``dynamic`` names what is not there.
    """
    training = [inner or type(module).__name__ for inner, part in module.named_modules() if part.training]
    if training:
        raise UsageError(f"expected a module in evaluation mode, got {training[0]} in training mode; call .eval()")
    given = tensors(names(module, len(args)), args)
    free = dynamic or {}
    if unknown := sorted(set(free) - set(given)):
        raise UsageError(f"dynamic: expected inputs out of {', '.join(given)}, got {unknown[0]!r}")
    sizes: dict[str, int] = {}
    dims: dict[str, Dim] = {}
    inputs: Sequence[Input] = [_input(key, value, free.get(key, {}), sizes, dims) for key, value in given.items()]
    own = copied(module)
    if randomize_weights:
        randomize(own, seed)
    settle_weights(own)
    own, inputs, wide = widened(own, inputs, given)
    given = {item.name: tensor(array(given[item.name]), item.dtype) for item in inputs}
    weights = f"random, seed {seed}" if randomize_weights else "as the module had them"
    chosen, notes = settle(own, given, outputs)
    return Subject(
        name or type(module).__name__,
        own,
        tuple(inputs),
        sizes,
        tuple(dims.values()),
        weights,
        random=randomize_weights,
        notes=tuple(filter(None, (wide, *notes))),
        outputs=chosen,
    )


def names(module: nn.Module, count: int) -> list[str]:
    """List the names of the first parameters of ``forward``.

    Raises:
        UsageError: it takes fewer.
    """
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    found = [parameter.name for parameter in parameters if parameter.kind in kinds]
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        found += [f"x{index}" for index in range(len(found), count)]
    if not count:
        raise UsageError(f"expected the inputs of {type(module).__name__}, got none; give them as a tuple of tensors")
    if count > len(found):
        raise UsageError(f"{type(module).__name__} takes {len(found)} inputs, got {count}")
    return found[:count]


def _input(name: str, value: object, free: Mapping[int, Dim], sizes: dict[str, int], dims: dict[str, Dim]) -> Input:
    """One input; sizes and dimensions are noted as they are met."""
    if not isinstance(value, Tensor):
        raise UsageError(f"input {name!r}: expected a tensor, got a {type(value).__name__}")
    kind = str(value.dtype).removeprefix("torch.")
    dtype = next((known for known in get_args(Dtype) if known == kind), None)
    if dtype is None:
        raise UsageError(f"input {name!r}: expected {', '.join(get_args(Dtype))}, got {kind}; convert it")
    shape: list[int | str] = list(value.shape)
    for axis, dim in free.items():
        if not -value.ndim <= axis < value.ndim:
            raise UsageError(f"dynamic: {name!r} has {value.ndim} axes, got axis {axis}")
        size = value.shape[axis]
        if sizes.setdefault(dim.name, size) != size or dims.setdefault(dim.name, dim) != dim:
            raise UsageError(f"dynamic: {dim.name!r} has two sizes or ranges; give two dimensions two names")
        if not dim.admits(size):
            raise UsageError(f"dynamic: {dim.name!r} is {size} in the example, outside of the range that it has")
        shape[axis] = dim.name
    high = max(2, int(value.max()) + 1) if dtype == "int64" and value.numel() else 2
    return Input(name, tuple(shape), dtype, high)
