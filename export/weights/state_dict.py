"""A flat state dict out of what a trainer saved: which part is taken, and what is said about it.

Trainers put the weights beside an epoch, an optimizer and often a second, averaged copy. As in timm's evaluation, the
averaged copy (EMA) is taken where there is one; ``key`` chooses another part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from attn_export.errors import CheckpointError
from attn_export.untrusted import text

State = dict[str, Tensor]

#: Averaged weights first, timm's two names before the others.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema")
_PLAIN = ("state_dict", "model_state_dict", "model", "model_state", "net", "params", "module")
#: How deep parts lie in each other, at most; a part may hold itself.
_DEPTH = 8


@dataclass(frozen=True)
class Taken:
    """The tensors of one part of a file.

    Attributes:
        state: names and tensors as they stand there.
        key: where the part lies, keys joined by dots; empty for the whole file.
        others: keys of the other parts that could have been taken.
    """

    state: State
    key: str = ""
    others: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """What the user should read about the choice; empty where there was none."""
        if not self.key:
            return ""
        rest = f" (also there: {', '.join(self.others)})" if self.others else ""
        return text.one_line(f"its {self.key}{rest}")


def take(loaded: object, source: Path | str, key: str | None = None) -> Taken:
    """Find the state dict in what was loaded: the part ``key``, or the one that trainers' habits point to.

    Raises:
        CheckpointError: there are no tensors in it, or nothing of that key; what is there is listed.

    >>> import torch
    >>> one, two = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    >>> take({"epoch": 3, "state_dict": one, "model_ema": {"state_dict": two}}, "x").said
    'its model_ema.state_dict (also there: state_dict)'
    >>> take({"state_dict": one, "state_dict_ema": two}, "x", "state_dict").state["w"]
    tensor([0.])
    """
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"expected a mapping of names to tensors in {source}, got a {type(loaded).__name__}")
    known = dict(_parts(loaded))
    place, part = ("", loaded) if key is None else _asked(loaded, source, key, known)
    place, part = _unwrapped(place, part)
    state = tensors(part)
    if not state:
        there = f"; --weights-key takes one of: {_listed(known)}" if known else ""
        names = ", ".join(name[:80] if isinstance(name, str) else f"a {type(name).__name__}" for name in list(part)[:8])
        raise CheckpointError(text.one_line(f"{source} holds no tensors; its keys: {names}{there}"))
    return Taken(state, place, tuple(name for name in known if name and name != place))


def tensors(part: Mapping[Any, object]) -> State:
    """Collect the tensors that lie directly in a mapping, by name."""
    return {name: value for name, value in part.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _unwrapped(place: str, part: Mapping[Any, object]) -> tuple[str, Mapping[Any, object]]:
    for _ in range(_DEPTH):
        inner = next((k for k in (*_AVERAGED, *_PLAIN) if _holds_tensors(part.get(k))), None)
        if inner is None:
            break
        place = f"{place}.{inner}" if place else inner
        found = part[inner]
        assert isinstance(found, Mapping)
        part = found
    return place, part


def _holds_tensors(part: object) -> bool:
    return isinstance(part, Mapping) and any(True for _ in _parts(part))


def _parts(whole: Mapping[Any, object]) -> Iterator[tuple[str, Mapping[Any, object]]]:
    """Every mapping in ``whole`` (itself included) that holds tensors, once, by its dotted place."""
    seen, waiting = {id(whole)}, deque([("", whole, 0)])
    while waiting:
        place, part, depth = waiting.popleft()
        if tensors(part):
            yield place, part
        for name, value in part.items() if depth < _DEPTH else ():
            if isinstance(name, str) and isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((f"{place}.{name}" if place else name, value, depth + 1))


def _asked(
    loaded: Mapping[Any, object], source: Path | str, key: str, known: Mapping[str, Mapping[Any, object]]
) -> tuple[str, Mapping[Any, object]]:
    """Find the field of a dotted key: a mapping, or the tensors of a flat state dict whose names begin with it."""
    found = _walk(loaded, key)
    if found is not None and _holds_tensors(found):
        return key, found
    for place, part in known.items():
        inner = key if not place else key.removeprefix(f"{place}.") if key.startswith(f"{place}.") else ""
        below = {n.removeprefix(f"{inner}."): v for n, v in tensors(part).items() if n.startswith(f"{inner}.")}
        if inner and below:
            return key, below
    raise CheckpointError(
        text.one_line(f"{source} has no weights under --weights-key {key!r}; it takes one of: {_listed(known)}")
    )


def _walk(part: Mapping[Any, object], key: str) -> Mapping[Any, object] | None:
    """Follow a dotted key; names may hold dots themselves."""
    if isinstance(whole := part.get(key), Mapping):
        return whole
    for index, letter in enumerate(key):
        inner = part.get(key[:index]) if letter == "." else None
        if isinstance(inner, Mapping) and inner is not part:
            found = _walk(inner, key[index + 1 :])
            if found is not None:
                return found
    return None


def _listed(known: Mapping[str, Mapping[Any, object]]) -> str:
    said = [f"{place} ({len(tensors(part))} tensors)" for place, part in known.items() if place]
    return ", ".join([*said[:12], *(["…"] if len(said) > 12 else [])]) or "none, the file is one state dict"
