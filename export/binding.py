"""Which parameter of ``forward`` an input goes to, by name: ``image``, ``feats.0``, ``batch.image``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def parameters(module: nn.Module) -> list[inspect.Parameter]:
    """List what ``forward`` takes; nothing where it cannot be read, as of compiled code."""
    try:
        return list(inspect.signature(module.forward, eval_str=True).parameters.values())
    except NameError:  # annotations that only a type checker can read
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def bound(module: nn.Module, inputs: Mapping[str, T]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split inputs into those given by position and those given by name, put together into lists, tuples and dicts.

    Inputs whose names are ``forward``'s own parameters, or places in them, go to these. Names that are the user's go
    by position, all of them.
    """
    takes = {p.name: p for p in parameters(module)}
    by_position = [p.name for p in takes.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = {p.name for p in takes.values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    grouped = _grouped(inputs, takes)
    given = {name: _built(value, takes.get(name)) for name, value in grouped.items()}
    names = list(given)
    # A dict goes by name: at the end of the others, the exporter would take it for the named ones.
    dicts = {name for name, value in grouped.items() if isinstance(value, _Places) and isinstance(given[name], dict)}
    first = next((i for i, name in enumerate(names) if by_position[i : i + 1] != [name] or name in dicts), len(names))
    more = any(p.kind is p.VAR_KEYWORD for p in takes.values()) and not takes.keys().isdisjoint(names)
    if more or by_name.issuperset(names[first:]):
        return tuple(given[name] for name in names[:first]), {name: given[name] for name in names[first:]}
    return tuple(inputs.values()), {}


def shapes(module: nn.Module, free: Mapping[str, Mapping[int, object]]) -> dict[str, Any] | tuple[Any, ...]:
    """Arrange the free axes of each input as the exporter wants them: as ``bound`` does the inputs."""
    positional, keywords = bound(module, free)
    takes = parameters(module)
    fixed = [p.name for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if keywords:
        return {**dict(zip(fixed, positional, strict=False)), **keywords}
    if any(p.kind is p.VAR_POSITIONAL for p in takes):
        return (*positional[: len(fixed)], positional[len(fixed) :])
    return positional


def needed(module: nn.Module) -> list[str]:
    """List the parameters of ``forward`` without a default."""
    return [p.name for p in parameters(module) if p.default is p.empty and p.kind not in _VARIABLE]


def owner(name: str, takes: Mapping[str, inspect.Parameter] | Sequence[str]) -> str:
    """Give the parameter that an input goes to: its own name, or what stands before the first dot.

    >>> owner("feats.0", ["feats"]), owner("feats.0", ["x"])
    ('feats', 'feats.0')
    """
    head = name.partition(".")[0]
    if head not in takes or (isinstance(takes, Mapping) and takes[head].kind in _VARIABLE):
        return name
    return head


def ordered(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Give the names in the order in which the module's program takes them."""
    places = [p.name for p in parameters(module)]
    by_place = sorted(names, key=lambda name: places.index(head) if (head := owner(name, places)) in places else 1000)
    positional, keywords = bound(module, {name: name for name in by_place})
    return [str(leaf) for leaf in leaves((*positional, *keywords.values()))]


def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an argument of ``forward`` holds, each under the name of its place.

    >>> list(flat("x", [1, {"a": 2}]))
    [('x.0', 1), ('x.1.a', 2)]
    """
    if isinstance(value, Mapping):
        parts: Any = value.items()
    elif isinstance(value, (list, tuple)):
        parts = zip(value._fields, value, strict=True) if hasattr(value, "_fields") else enumerate(value)
    else:
        yield name, value
        return
    for key, item in parts:
        yield from flat(f"{name}.{key}", item)


def misplaced(names: Sequence[str], takes: Sequence[str]) -> str:
    """Say what is wrong with names of places inside parameters: one that is left out, or given whole as well."""
    places: dict[str, list[str]] = {}
    for name in names:
        head, _, rest = name.partition(".")
        if rest and head in takes:
            places.setdefault(head, []).append(rest.partition(".")[0])
    for head, keys in places.items():
        if head in names:
            return f"{head!r} is given whole and in parts"
        count = len(numbers := {int(key) for key in keys if key.isdecimal()})
        if count and (count < len(set(keys)) or numbers != set(range(count))):
            return f"{head!r} has the places {', '.join(dict.fromkeys(keys))}, and a list counts from 0 on"
    return ""


class _Places(dict[str, Any]):
    """Values inside one parameter, by place."""


def _grouped(inputs: Mapping[str, T], takes: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in inputs.items():
        if (head := owner(name, takes)) == name:
            tree[name] = value
            continue
        here = tree.setdefault(head, _Places())
        *inner, last = name.split(".")[1:]
        for key in inner:
            here = here.setdefault(key, _Places())
        here[last] = value
    return tree


def _built(value: Any, parameter: inspect.Parameter | None = None) -> Any:
    """Make the container of values by place: what the annotation says, or a list where places are numbers."""
    if not isinstance(value, _Places):
        return value
    parts = {key: _built(item) for key, item in value.items()}
    kind = parameter.annotation if parameter else None
    if isinstance(kind, type) and hasattr(kind, "_fields"):
        return kind(**parts)
    if not all(key.isdecimal() for key in parts) or re.match(r"(\w+\.)*(dict|Dict|Mapping)\b", _text(kind)):
        return parts
    items = [parts[key] for key in sorted(parts, key=int)]
    return tuple(items) if re.match(r"(\w+\.)*[tT]uple\b", _text(kind)) else items


def _text(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def leaves(value: Any) -> list[Any]:
    """List what lists, tuples and dicts hold in the end."""
    return [leaf for _, leaf in flat("", value)]


def tensors(names: Sequence[str], args: Sequence[Any]) -> dict[str, Tensor]:
    """Give what ``args`` hold, by the name of each place."""
    return {place: leaf for name, value in zip(names, args, strict=True) for place, leaf in flat(name, value)}
