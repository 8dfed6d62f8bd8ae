"""Cases that a bundle has never seen: drawn anew, and held to what its model meant before any stage changed it.

A bundle is proven on its own cases, so a table that knows those by heart would pass. This needs the export side: the
reference is evaluated node by node in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from attn_export.bundle import Bundle, Case, elements, loose
from attn_export.errors import BundleError, ExportError, GateError, InconclusiveError
from attn_export.pipeline import float64
from attn_export.types import Array, Dim, Feeds, TensorSpec

#: How many times the largest size of the bundle's own cases a fresh one may have.
FURTHER = 2

_Draw = Callable[[np.random.Generator, tuple[int, ...]], Any]
#: What float inputs are like, in turn.
KINDS: Mapping[str, _Draw] = {
    "normal": lambda random, shape: random.standard_normal(shape) * 10 ** random.uniform(-1.5, 1),
    "in 0..1": lambda random, shape: random.random(shape),
    "not negative": lambda random, shape: np.abs(random.standard_normal(shape)),
    "negative": lambda random, shape: -np.abs(random.standard_normal(shape)),
    "constant": lambda random, shape: np.full(shape, random.standard_normal()),
    "mostly zero": lambda random, shape: random.standard_normal(shape) * (random.random(shape) < 0.02),
    "large": lambda random, shape: random.standard_normal(shape) * 100,
}


def cases(whole: Bundle, count: int, seed: int, said: Callable[[str], None] = lambda _: None) -> tuple[Case, ...]:
    """Draw ``count`` cases, and evaluate the bundle's original on them.

    ``said`` is told which of them are left out, as the export does with its own.

    Raises:
        BundleError: the bundle does not hold its original.
        GateError: the original does not run at sizes that the bundle promises.
        InconclusiveError: no case is left.
    """
    if whole.original is None:
        raise BundleError(
            f"{whole.path} does not hold the model before any stage changed it (it was large, or left out with"
            " --no-original), so there is nothing to hold fresh inputs to"
        )
    made = []
    for name, feeds in drawn(whole, count, seed):
        try:
            (case,) = float64.evaluate(whole.original, {name: feeds}, whole.selections)
        except ExportError as error:
            sizes = ", ".join(f"{key}: {'x'.join(map(str, value.shape))}" for key, value in feeds.items())
            raise GateError(f"the original does not run on {sizes}, which {whole.path} promises: {error}") from error
        if why := _strange(case) or loose(case):
            said(f"case {name!r} is left out: {why}")
        else:
            made.append(case)
    if not made:
        raise InconclusiveError("correct float32 strays too far on every fresh input; give inputs of your own (--data)")
    return tuple(made)


def drawn(whole: Bundle, count: int, seed: int) -> Iterator[tuple[str, Feeds]]:
    """Draw inputs by name of the case: sizes within the contract, and values of every kind in turn."""
    random = np.random.default_rng(seed)
    ranges = {port.name: _whole_numbers(whole, port.name) for port in whole.inputs if _is_whole(port)}
    for index in range(count):
        free = {dim.name: _size(dim, whole, random, index) for dim in whole.dynamic_dims}
        sizes = {**_fixed(whole), **free}
        kind = list(KINDS)[index % len(KINDS)]
        words = ", ".join(f"{name}={size}" for name, size in free.items())
        feeds = {port.name: _values(port, sizes, kind, ranges.get(port.name), random) for port in whole.inputs}
        yield f"fresh {index}: {kind}{f', {words}' if words else ''}", feeds


def _size(dim: Dim, whole: Bundle, random: np.random.Generator, index: int) -> int:
    """Take the smallest size, the largest, and then any."""
    seen = [
        value.shape[axis]
        for port in whole.inputs
        for axis, name in enumerate(port.shape)
        if name == dim.name
        for value in (case.inputs[port.name] for case in whole.cases)
    ]
    least = -(-max(dim.min, 1) // dim.step)
    most = max(least, FURTHER * max(seen, default=1) // dim.step)
    if dim.max is not None:
        most = max(least, min(most, dim.max // dim.step))
    steps = {0: least, 1: most}.get(index, int(random.integers(least, most + 1)))
    return steps * dim.step


def _fixed(whole: Bundle) -> dict[str, int]:
    """Take sizes that the model leaves open and the bundle does not promise from its first case."""
    inputs = whole.cases[0].inputs
    pairs = (
        (name, size) for port in whole.inputs for name, size in zip(port.shape, inputs[port.name].shape, strict=True)
    )
    return {name: size for name, size in pairs if isinstance(name, str)}


def _is_whole(port: TensorSpec) -> bool:
    return elements.held_as(port.dtype).kind in "iu"


def _whole_numbers(whole: Bundle, name: str) -> tuple[int, int]:
    """From the smallest to the largest that the bundle's own cases have: no more is known of what they may be."""
    values = [case.inputs[name] for case in whole.cases if case.inputs[name].size]
    return min((int(v.min()) for v in values), default=0), max((int(v.max()) for v in values), default=1)


def _values(
    port: TensorSpec, sizes: Mapping[str, int], kind: str, known: tuple[int, int] | None, random: np.random.Generator
) -> Array:
    shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in port.shape)
    dtype = elements.held_as(port.dtype)
    if known is not None:
        return np.asarray(random.integers(known[0], known[1] + 1, shape), dtype)
    if dtype.kind == "b":
        return np.asarray(random.random(shape) < random.random())
    return elements.fitted(KINDS[kind](random, shape), port.dtype)


def _strange(case: Case) -> str:
    broken = [
        name
        for name, value in case.reference.items()
        if value.size and value.dtype.kind == "f" and not np.isfinite(value).any()
    ]
    return f"its reference of {broken[0]!r} is not finite anywhere" if broken else ""
