"""Make a frozen dataclass of plain data by its own annotations, or say which field is not what it must be.

Known: str, int, float, bool, None, Any, Literal, tuples of one kind or of a fixed length, mappings from str, unions of
these, dataclasses, and ``Annotated[kind, Within(…)]`` for numbers with bounds and texts and lists with lengths.
A float must be finite, and takes an integer; a bool is no integer. Unknown keys are an error, missing ones take the
field's default where it has one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import types
from collections.abc import Mapping, Sized
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Within:
    """Bounds of a number, or of the length of a text or list; ``above``: the lower one itself is outside."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False

    def fault(self, value: Any) -> str:
        """Why ``value`` lies outside, or nothing."""
        size, what = (len(value), "a length") if isinstance(value, Sized) else (value, "a number")
        if self.least < size <= self.most or (size == self.least and not self.above):
            return ""
        bounds = [f"{'above' if self.above else 'of at least'} {self.least:g}"] if self.least > -math.inf else []
        bounds += [f"of at most {self.most:g}"] if self.most < math.inf else []
        return f"expected {what} {' and '.join(bounds)}, got {size:g}"


def build(kind: type[T], value: object, where: str = "") -> T:
    """Make ``kind``, a dataclass, of a mapping.

    Raises:
        ValueError: a field is missing, unknown, or of another kind; the message names it.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Port:
    ...     name: str
    ...     shape: tuple[int | str, ...]
    >>> build(Port, {"name": "x", "shape": ["b", 3]})
    Port(name='x', shape=('b', 3))
    >>> build(Port, {"name": "x", "shape": [1.5]}, "inputs")
    Traceback (most recent call last):
    ...
    ValueError: inputs.shape[0]: expected int or str, got float
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{where or 'it'}: expected an object, got {_name(value)}")
    hints, required = _fields(kind)  # type: ignore[arg-type]  # a class is hashable
    prefix = f"{where}." if where else ""
    if unknown := sorted(str(name) for name in value if name not in hints):
        raise ValueError(f"{prefix}{unknown[0][:80]}: there is no such field")
    if missing := [name for name in required if name not in value]:
        raise ValueError(f"{prefix}{missing[0]}: is missing")
    return kind(**{name: check(hints[name], item, f"{prefix}{name}") for name, item in value.items()})


def plain(value: object) -> Any:
    """Give a dataclass that was made here as plain data again, with whatever had been left out filled in.

    >>> plain(Within(1, 2))
    {'least': 1, 'most': 2, 'above': False}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in _fields(type(value))[0]}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Annotations by the name of each field, and the names of those without a default."""
    hints = get_type_hints(kind, include_extras=True)
    fields = [field for field in dataclasses.fields(kind) if field.init]
    bare = (f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING)
    return {field.name: hints[field.name] for field in fields}, tuple(bare)


def check(kind: Any, value: object, where: str) -> Any:
    """``value`` as ``kind``.

    Raises:
        ValueError: it is not.
    """
    origin = get_origin(kind)
    if kind is Any or kind is object:
        return value
    if origin is Annotated:
        inner, *bounds = get_args(kind)
        made = check(inner, value, where)
        if why := next(filter(None, (bound.fault(made) for bound in bounds)), ""):
            raise ValueError(f"{where}: {why}")
        return made
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in get_args(kind)):
            raise ValueError(f"{where}: expected {_kind(kind)}, got {_shown(value)}")
        return value
    if origin in (Union, types.UnionType):
        return _union(kind, value, where)
    if origin is tuple:
        return _tuple(get_args(kind), value, where)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected an object, got {_name(value)}")
        inner = get_args(kind)[1]
        return {str(name): check(inner, item, f"{where}.{str(name)[:80]}") for name, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where)  # type: ignore[arg-type]
    return _scalar(kind, value, where)


def _union(kind: Any, value: object, where: str) -> Any:
    choices = get_args(kind)
    if value is None and types.NoneType in choices:
        return None
    some = [choice for choice in choices if choice is not types.NoneType]
    if len(some) == 1:  # what is wrong inside says more than that it is neither
        return check(some[0], value, where)
    for choice in some:
        with contextlib.suppress(ValueError):
            return check(choice, value, where)
    raise ValueError(f"{where}: expected {_kind(kind)}, got {_name(value)}")


def _tuple(kinds: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: expected a list, got {_name(value)}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{where}: expected a list of {len(kinds)}, got {len(value)}")
    pairs = zip(kinds, value, strict=True)
    return tuple(check(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(pairs))


def _scalar(kind: Any, value: object, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is type(None):
        kind = types.NoneType
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where}: expected {_kind(kind)}, got {_name(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, got {value}")
    return value


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is Annotated:
        return _kind(get_args(kind)[0])
    if parts := get_args(kind):
        return " or ".join(_kind(part) for part in parts if part is not Ellipsis)
    return "null" if kind is types.NoneType else str(getattr(kind, "__name__", kind))


def _name(value: object) -> str:
    if value is None:
        return "null"
    return {"dict": "an object", "list": "a list"}.get(type(value).__name__, type(value).__name__)


def _shown(value: object) -> str:
    return repr(value)[:80] if isinstance(value, str | int | float) else _name(value)
