"""The range of shapes each input may take on a device: from the bundle's cases, or as typed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from attn_export.bundle import Bundle
from attn_export.deploy_tests import backends
from attn_export.errors import UsageError
from attn_export.types import Dim, ShapeRange, TensorSpec

_SHAPE = re.compile(r"[0-9]{1,9}(x[0-9]{1,9}){0,63}")
#: Letters of a text, and elements of an input.
_LONGEST, _MOST = 2000, 1 << 31
_EXPECTED = "expected --shapes [input:]min,opt,max such as x:1x3x112x112,1x3x224x224,8x3x448x448"


def of(bundle: Bundle) -> dict[str, ShapeRange]:
    """From the smallest to the largest shape among the bundle's own cases; empty where none varies."""
    ranges = {}
    for port in bundle.inputs:
        seen = [case.inputs[port.name].shape for case in bundle.cases]
        least, most = tuple(map(min, zip(*seen, strict=True))), tuple(map(max, zip(*seen, strict=True)))
        if least != most:
            ranges[port.name] = ShapeRange(least, seen[0], most)
    return ranges


def asked(
    bundle: Bundle, texts: Iterable[str], names: Sequence[str] | None = None, *, cases: bool = True
) -> dict[str, ShapeRange]:
    """``of`` with the ranges that were typed in place of its own.

    Args:
        bundle: whose contract holds.
        texts: each ``[input:]min,opt,max``, or one shape for all three.
        names: the backends that are to run; None where ranges are wanted whatever runs.
        cases: the bundle's cases are to run, so a range must hold them.

    Raises:
        UsageError: a text cannot be read, names no input, or leaves the contract or the cases out; or no backend of
            them prepares for shapes.
        UnknownNameError, BackendError: as ``backends.traits``, where ranges are given.
    """
    ranges = of(bundle)
    texts = tuple(texts)
    typed = set[str]()
    if texts and names is not None and not any(backends.traits(name).wants_shape_ranges for name in names):
        raise UsageError(
            f"--shapes is for backends that prepare for a range of shapes; {', '.join(names)} takes any as it comes:"
            " leave it out"
        )
    for text in texts:
        name, range_ = parse(text, bundle.inputs)
        if name in typed:
            raise UsageError(f"--shapes gives {name!r} twice; give one range for each input")
        typed.add(name)
        port = next(port for port in bundle.inputs if port.name == name)
        if why := misfit(range_, port, bundle.dynamic_dims):
            raise UsageError(f"--shapes {text}: {why}")
        for case in bundle.cases if cases else ():
            shape = case.inputs[name].shape
            if not all(low <= n <= high for low, n, high in zip(range_.min, shape, range_.max, strict=True)):
                raise UsageError(
                    f"--shapes {text}: case {case.name!r} is {'x'.join(map(str, shape))}, and could not run;"
                    " give a range that holds it"
                )
        ranges[name] = range_
    return ranges


def parse(text: str, inputs: Sequence[TensorSpec]) -> tuple[str, ShapeRange]:
    """Read one range, in the words of ``trtexec``'s three options together.

    Raises:
        UsageError: it cannot be read, or there is no such input.
    """
    if len(text) > _LONGEST:
        raise UsageError(f"--shapes of {len(text)} letters: {_EXPECTED}")
    name, colon, rest = text.rpartition(":")
    known = [port.name for port in inputs]
    if not known:
        raise UsageError(f"--shapes {text}: the model has no inputs")
    if not colon and len(known) > 1:
        raise UsageError(f"--shapes {text}: say for which input ({', '.join(known)}); {_EXPECTED}")
    name = name if colon else known[0]
    if name not in known:
        raise UsageError(f"--shapes {text}: there is no input {name!r}; there is {', '.join(known)}")
    parts = rest.split(",")
    if len(parts) not in (1, 3) or not all(_SHAPE.fullmatch(part) for part in parts):
        raise UsageError(f"--shapes {text}: {_EXPECTED}")
    low, usual, high = (tuple(map(int, part.split("x"))) for part in (parts * 3 if len(parts) == 1 else parts))
    if math.prod(high) > _MOST:
        raise UsageError(f"--shapes {text}: that is {math.prod(high)} elements; at most 2³¹ are made")
    return name, ShapeRange(low, usual, high)


def misfit(range_: ShapeRange, port: TensorSpec, varying: Sequence[Dim]) -> str:
    """Say why a range lies outside the contract of its input, or nothing.

    >>> misfit(ShapeRange((1, 3), (1, 3), (9, 3)), TensorSpec("x", "float32", ("b", 3)), [Dim("b", max=8)])
    'b may be 1 to 8, got 9'
    """
    if not len(range_.min) == len(range_.opt) == len(range_.max) == len(port.shape):
        return f"input {port.name!r} has {len(port.shape)} dimensions"
    free = {dim.name: dim for dim in varying}
    for axis, size in enumerate(port.shape):
        low, mid, high = range_.min[axis], range_.opt[axis], range_.max[axis]
        if isinstance(size, int) or size not in free:
            if isinstance(size, int) and not low == mid == high == size:
                return f"dimension {axis} of {port.name!r} is fixed at {size}"
            continue
        if not low <= mid <= high:
            return f"{size} needs min ≤ opt ≤ max, got {low}, {mid}, {high}"
        dim = free[size]
        for n in (low, mid, high):
            if n < dim.min or (dim.max is not None and n > dim.max):
                return f"{size} may be {dim.min} to {'any size' if dim.max is None else dim.max}, got {n}"
            if n % dim.step:
                return f"{size} must be a multiple of {dim.step}, got {n}"
    return ""
