"""Read how a user describes the inputs of a network: ``[name:]shape[:dtype]``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attn_export.errors import UnknownNameError, UsageError
from attn_export.mechanisms.spec import Dtype, Input

_DTYPES: tuple[Dtype, ...] = ("float32", "int64", "bool")
#: Letters of one input's description, its elements and its axes.
_LONGEST, _MOST, _AXES = 1000, 1 << 31, 64


def inputs_of(texts: Sequence[str], names: Sequence[str]) -> tuple[tuple[Input, ...], dict[str, int]]:
    """Read the inputs' descriptions; those without a name take ``forward``'s parameter names, in order.

    Raises:
        UsageError: one cannot be read, or two of them contradict each other.

    >>> inputs_of(["b=2x3x8x8"], ["image"])
    ((Input(name='image', shape=('b', 3, 8, 8), dtype='float32', high=2),), {'b': 2})
    """
    sizes: dict[str, int] = {}
    items = list[Input]()
    for index, text in enumerate(texts):
        name, shape, dtype, named = parse_input(text)
        name = name or (names[index] if index < len(names) else f"x{index}")
        if name in {item.name for item in items}:
            raise UsageError(f"--input describes {name!r} twice")
        for dim, size in named.items():
            if sizes.setdefault(dim, size) != size:
                raise UsageError(f"--input says {dim}={sizes[dim]} and {dim}={size}; one dimension has one size")
        items.append(Input(name, shape, dtype))
    return tuple(items), sizes


def parse_input(text: str) -> tuple[str, tuple[int | str, ...], Dtype, dict[str, int]]:
    """Read one input: ``[name:]shape[:dtype]``, the shape as ``1x3x224x224``, ``[1,3,224,224]`` or ``1,3,224,224``.

    A size written ``b=2`` is a dimension called ``b`` that may vary and is traced at 2.

    Raises:
        UsageError: it is none of these.

    >>> parse_input("x:[b=2,3,8,8]")
    ('x', ('b', 3, 8, 8), 'float32', {'b': 2})
    >>> parse_input("tokens:1x16:int64")
    ('tokens', (1, 16), 'int64', {})
    """
    expected = "expected [name:]shape[:dtype] such as x:1x3x224x224, [1,3,224,224] or b=2x3x224x224"
    if len(text) > _LONGEST:
        raise UsageError(f"{expected}; got {len(text)} letters")
    expected = f"{expected}; got {text!r}"
    match = re.fullmatch(r"(?:(?P<name>[A-Za-z_]\w*):)?(?P<shape>\[?[\w=,\s]+\]?)(?::(?P<dtype>\w+))?", text.strip())
    if not match:
        raise UsageError(expected)
    body = match["shape"].strip("[] ")
    sizes: dict[str, int] = {}
    shape: list[int | str] = []
    count = 1
    for part in re.split(r"\s*,\s*" if "," in body else r"x", body):
        dim, _, size = part.strip().rpartition("=")
        if not re.fullmatch(r"[0-9]{1,18}", size) or int(size) < 1 or (dim and not dim.isidentifier()):
            raise UsageError(expected)
        if dim in sizes and sizes[dim] != int(size):
            raise UsageError(f"{expected}, where {dim!r} has two sizes: give two dimensions two names")
        count *= int(size)
        shape.append(dim or int(size))
        if dim:
            sizes[dim] = int(size)
    if count > _MOST or len(shape) > _AXES:
        raise UsageError(
            f"{expected}: that is {len(shape)} axes and {count} elements; at most {_AXES} and 2³¹ are drawn"
        )
    dtype = match["dtype"] or "float32"
    if dtype not in _DTYPES:
        raise UnknownNameError("input type", dtype, _DTYPES)
    return match["name"] or "", tuple(shape), dtype, sizes
