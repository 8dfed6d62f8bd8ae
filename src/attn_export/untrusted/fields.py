"""Make a frozen dataclass of plain data by its own annotations, or say which field is not what it must be.

Known: str, int, float, bool, None, Any, tuples of one kind, mappings from str, unions of these, and dataclasses.
A float must be finite, and takes an integer; a bool is no integer. Unknown keys are an error, missing ones take the
field's default where it has one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


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
    hints = get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    if unknown := sorted(str(name) for name in value if name not in known):
        raise ValueError(f"{prefix}{unknown[0][:80]}: there is no such field")
    made: dict[str, Any] = {}
    for name, field in known.items():
        if name in value:
            made[name] = check(hints[name], value[name], f"{prefix}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{prefix}{name}: is missing")
    return kind(**made)


def check(kind: Any, value: object, where: str) -> Any:
    """``value`` as ``kind``.

    Raises:
        ValueError: it is not.
    """
    origin = get_origin(kind)
    if kind is Any or kind is object:
        return value
    if origin in (Union, types.UnionType):
        for choice in get_args(kind):
            with contextlib.suppress(ValueError):
                return check(choice, value, where)
        raise ValueError(f"{where}: expected {_kind(kind)}, got {_name(value)}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {_name(value)}")
        inner = get_args(kind)[0]
        return tuple(check(inner, item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected an object, got {_name(value)}")
        inner = get_args(kind)[1]
        return {str(name): check(inner, item, f"{where}.{name}") for name, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where)  # type: ignore[arg-type]
    return _scalar(kind, value, where)


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
    if parts := get_args(kind):
        return " or ".join(_kind(part) for part in parts if part is not Ellipsis)
    return "null" if kind is types.NoneType else str(getattr(kind, "__name__", kind))


def _name(value: object) -> str:
    return (
        "null"
        if value is None
        else {"dict": "an object", "list": "a list"}.get(type(value).__name__, type(value).__name__)
    )
