"""Read how a user describes the inputs of a network: ``[name:]shape[:dtype[low,high]]``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from attn_export.errors import UnknownNameError, UsageError
from attn_export.mechanisms.spec import Dtype, Input, is_float
from attn_export.types import Dim

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
#: Letters of one input's description, its elements and its axes.
_LONGEST, _MOST, _AXES = 1000, 1 << 31, 64
_EXPECTED = "expected [name:]shape[:dtype] such as x:1x3x224x224, [1,3,224,224], b=2x3x224x224 or ids:1x77:int64[0,99]"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TEXT = re.compile(
    # A shape is no plain word: in 1x3x8x8:int64 the word behind the colon is the type.
    r"(?:(?P<name>[^\s,=\[\]]+?):)?(?P<shape>\[\]|(?![A-Za-z_]\w*(?:[:\[]|$))\[?[\w=,\s%.]+?\]?)"
    rf"(?::(?P<dtype>[A-Za-z]\w*)?(?:\[(?P<low>{_NUMBER})\s*,\s*(?P<high>{_NUMBER})\])?)?"
)
_SIZE = re.compile(r"(?:(?P<dim>\w+)=)?(?P<from>[0-9]{1,18})(?:\.\.(?P<to>[0-9]{1,18}))?(?:%(?P<step>[0-9]{1,18}))?")


@dataclass(frozen=True)
class Described:
    """Inputs as they were described.

    Attributes:
        items: the inputs, in the order they were given.
        dims: the dimensions that may vary, by name, each with its range.
        sizes: the size that each is traced at.
    """

    items: tuple[Input, ...]
    dims: Mapping[str, Dim]
    sizes: Mapping[str, int]


def described(texts: Sequence[str], names: Sequence[str]) -> Described:
    """Read the inputs' descriptions; those without a name take ``forward``'s parameter names, in order.

    Raises:
        UsageError: one cannot be read, or two of them contradict each other.
    """
    sizes, dims = dict[str, int](), dict[str, Dim]()
    items = list[Input]()
    for index, text in enumerate(texts):
        item, free, at = _input(text)
        name = item.name or (names[index] if index < len(names) else f"x{index}")
        if name in {item.name for item in items}:
            raise UsageError(f"--input describes {name!r} twice")
        for dim, size in at.items():
            if sizes.setdefault(dim, size) != size:
                raise UsageError(f"--input says {dim}={sizes[dim]} and {dim}={size}; one dimension has one size")
            if dims.setdefault(dim, free[dim]) != free[dim]:
                raise UsageError(f"--input gives {dim!r} two ranges; one dimension has one range")
        items.append(Input(name, item.shape, item.dtype, within=item.within))
    return Described(tuple(items), dims, sizes)


def inputs_of(texts: Sequence[str], names: Sequence[str]) -> tuple[tuple[Input, ...], dict[str, int]]:
    """Read the inputs' descriptions, and the sizes of their named dimensions.

    Raises:
        UsageError: as ``described``.

    >>> inputs_of(["b=2x3x8x8"], ["image"])[1]
    {'b': 2}
    """
    found = described(texts, names)
    return found.items, dict(found.sizes)


def parse_input(text: str) -> tuple[str, tuple[int | str, ...], Dtype, dict[str, int]]:
    """Read one input: ``[name:]shape[:dtype]``, the shape as ``1x3x224x224``, ``[1,3,224,224]`` or ``1,3,224,224``.

    A size written ``b=2`` is a dimension called ``b`` that may vary and is traced at 2. ``h=320%32`` varies by
    multiples of 32, ``h=64..640`` from 64 to 640, and is traced at the first of them; both go together.

    Raises:
        UsageError: it is none of these.

    >>> parse_input("x:[b=2,3,8,8]")
    ('x', ('b', 3, 8, 8), 'float32', {'b': 2})
    >>> parse_input("tokens:1x16:int64")
    ('tokens', (1, 16), 'int64', {})
    """
    item, _, sizes = _input(text)
    return item.name, item.shape, item.dtype, sizes


def _input(text: str) -> tuple[Input, dict[str, Dim], dict[str, int]]:
    """One input, its named dimensions with their ranges, and the sizes that those are traced at."""
    if len(text) > _LONGEST:
        raise UsageError(f"{_EXPECTED}; got {len(text)} letters")
    expected = f"{_EXPECTED}; got {text!r}"
    match = _TEXT.fullmatch(text.strip())
    if not match:
        raise UsageError(expected)
    body = match["shape"].strip("[] ")
    sizes, dims = dict[str, int](), dict[str, Dim]()
    shape: list[int | str] = []
    for part in re.split(r"\s*,\s*" if "," in body else r"x", body) if body else ():
        size, dim = _size(part.strip(), expected)
        if dim is None:
            shape.append(size)
            continue
        if sizes.setdefault(dim.name, size) != size or dims.setdefault(dim.name, dim) != dim:
            raise UsageError(f"{expected}, where {dim.name!r} has two sizes: give two dimensions two names")
        shape.append(dim.name)
    count = math.prod(sizes[dim] if isinstance(dim, str) else dim for dim in shape)
    if count > _MOST or len(shape) > _AXES:
        raise UsageError(
            f"{expected}: that is {len(shape)} axes and {count} elements; at most {_AXES} and 2³¹ are drawn"
        )
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        raise UnknownNameError("input type", dtype, DTYPES)
    within = _within(match["low"], match["high"], dtype, expected)
    return Input(match["name"] or "", tuple(shape), cast("Dtype", dtype), within=within), dims, sizes


def _size(text: str, expected: str) -> tuple[int, Dim | None]:
    """One size: where it is traced, and what it may be where it has a name."""
    match = _SIZE.fullmatch(text)
    if not match or (match["dim"] and not match["dim"].isidentifier()):
        raise UsageError(expected)
    low, high, step = int(match["from"]), match["to"], int(match["step"] or 1)
    if match["dim"] is None:
        if low < 1 or high or match["step"]:
            raise UsageError(f"{expected}: what may vary has a name, such as h=320%32")
        return low, None
    size = -(-low // step) * step if high else low
    dim = Dim(match["dim"], low if high else 1, int(high) if high else None, step)
    if size < 1 or not dim.admits(size):
        raise UsageError(f"{expected}: there is no such size of {match['dim']!r}, which is to be a multiple of {step}")
    return size, dim


def _within(low: str | None, high: str | None, dtype: str, expected: str) -> tuple[float, float] | None:
    """From what to what the values lie."""
    if low is None or high is None:
        return None
    ends = (float(low), float(high))
    if dtype == "bool" or not ends[0] <= ends[1] or (not is_float(dtype) and any(e % 1 for e in ends)):
        raise UsageError(f"{expected}: there is no {dtype} from {low} to {high}")
    if not is_float(dtype) and not _holds(dtype, ends):
        raise UsageError(f"{expected}: {dtype} does not hold {low} to {high}")
    return ends


def _holds(dtype: str, ends: Iterable[float]) -> bool:
    bits, signed = int(re.sub(r"\D", "", dtype)), not dtype.startswith("u")
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return all(least <= end <= most for end in ends)
