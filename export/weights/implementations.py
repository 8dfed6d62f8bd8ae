"""Which published implementation a state dict is of, and what its names are called here.

A state dict that fits by name may mean another function than the entry computes by default. What the names show is
taken and said; what they leave open is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from attn_export.errors import CheckpointError, UnknownNameError, UsageError
from attn_export.export.weights import published
from attn_export.export.weights.state_dict import State
from attn_export.mechanisms.spec import Source, Spec
from attn_export.untrusted import text


@dataclass(frozen=True)
class Chosen:
    """A state dict without its common prefix, and whose it is.

    Attributes:
        state: names as the source has them.
        prefix: what was taken off every name.
        name: of the source among the entry's, or empty.
        source: the same, or None: our own names, or names that mean the entry's function.
    """

    state: State
    prefix: str = ""
    name: str = ""
    source: Source | None = None

    @property
    def said(self) -> tuple[str, ...]:
        """What the user should read about the choice."""
        prefix = (f"prefix {text.one_line(self.prefix)} taken off",) if self.prefix else ()
        return (*prefix, f"read as {self.name} ({self.source.of})") if self.source else prefix


def choose(
    entry: str, spec: Spec | None, state: State, own: Collection[str], variant: str | None = None, preset: str = ""
) -> Chosen:
    """Find the common prefix to take off and the source that the names show, or take the one that was asked for.

    Args:
        entry: its name, for messages.
        spec: of the entry; None for a network of the user's, whose names are its own.
        state: names and tensors as the file has them.
        own: names of the module as it is without a source.
        variant: a source by its name, or None.
        preset: the configuration that is built.

    Raises:
        CheckpointError: nothing here computes what the source does, or several do that the names cannot tell apart.
        UsageError: there is no such source.
    """
    known = published.sources(entry, spec) if spec else {}
    if variant is not None:
        return _asked(entry, known, state, own, variant, preset)
    for prefix, inner in _stripped(state):
        found = {name: s for name, s in known.items() if not s.only_asked and shows(s, inner)}
        if found:
            name = _only(entry, known, found)
            _refuse(entry, known, name, preset)
            return Chosen(inner, prefix, name, known[name])
    prefix, inner = max(_stripped(state), key=lambda pair: _fitting(pair[1], spec, own))  # of equals, the first
    return Chosen(inner, prefix)


def shows(source: Source, state: Collection[str]) -> bool:
    """Whether the names are those of the source."""

    def found(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in state)

    return all(map(found, source.shown_by)) and not any(map(found, source.not_by))


def arguments(chosen: Chosen) -> dict[str, object]:
    """Give the constructor arguments that make the entry the same function as the source.

    Raises:
        CheckpointError: a tensor that tells one is not there.
    """
    if chosen.source is None:
        return {}
    found = dict(chosen.source.arguments)
    if chosen.source.reads:
        try:
            found |= chosen.source.reads(dict(chosen.state))
        except (LookupError, ValueError, TypeError, ZeroDivisionError) as error:
            raise CheckpointError(
                text.one_line(f"the weights begin as those of {chosen.name} but do not go on as they: {error}")
            ) from error
    for argument, (pattern, axis) in chosen.source.sized.items():
        shapes = [tuple(value.shape) for name, value in chosen.state.items() if re.search(pattern, name)]
        if not shapes or len(shapes[0]) <= axis:
            raise CheckpointError(f"{chosen.name} tells {argument} by the shape of {pattern}, which is not there")
        found[argument] = shapes[0][axis]
    return found


def rename(state: State, spec: Spec, source: Source | None = None) -> State:
    """Bring a source's names and layouts to ours by its key map, or by the entry's.

    Raises:
        CheckpointError: the names begin as the source's and go on otherwise.
    """
    whose = source if source and (source.convert or source.checkpoint) else spec
    convert, pairs = whose.convert, whose.checkpoint
    try:
        state = convert(state) if convert else state
    except (LookupError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            text.one_line(f"the weights look like those of another implementation but do not go on as it: {error}")
        ) from error
    renamed: State = {}
    for name, value in state.items():
        target: str | None = name
        for pattern, replacement in pairs.items():
            if target is not None and re.search(pattern, target):
                target = None if replacement is None else re.sub(pattern, replacement, target)
        if target is not None:
            if target in renamed:
                raise CheckpointError(text.one_line(f"two of the weights' names become {target}; {name} is the second"))
            renamed[target] = value
    return renamed


def ours(state: State, spec: Spec | None, own: Collection[str], source: Source | None = None) -> State:
    """Bring the state dict under our names: as it is, or renamed where that makes more of its names fit.

    Raises:
        CheckpointError: as ``rename``.
    """
    if spec is None or (state.keys() <= set(own) and not (source and source.convert)):
        return state
    renamed = rename(state, spec, source)
    return renamed if _partners(renamed, own) > _partners(state, own) else state


def _asked(
    entry: str, known: Mapping[str, Source], state: State, own: Collection[str], variant: str, preset: str
) -> Chosen:
    if variant not in known:
        if not known:
            raise UsageError(f"{entry} has no variants of weights: its names say which function they mean")
        raise UnknownNameError(f"variant of {entry}'s weights", variant, known)
    _refuse(entry, known, variant, preset)
    source = known[variant]
    for prefix, inner in _stripped(state):
        if shows(source, inner) or inner.keys() <= set(own):
            return Chosen(inner, prefix, variant, source)
    missing = [p for p in source.shown_by if not any(re.search(p, name) for name in state)]
    surplus = [p for p in source.not_by if any(re.search(p, name) for name in state)]
    raise CheckpointError(
        f"the weights are not those of --variant {variant}: no name has {', '.join(missing) or 'another prefix'}"
        + (f"; one has {', '.join(surplus)}" if surplus else "")
    )


def _only(entry: str, known: Mapping[str, Source], found: Mapping[str, Source]) -> str:
    if len(found) == 1:
        return next(iter(found))
    raise CheckpointError(
        f"the names of these weights do not say which function they mean for {entry}; choose with --variant:"
        f" {_listed({name: s for name, s in known.items() if name in found or s.only_asked})}"
    )


def _refuse(entry: str, known: Mapping[str, Source], name: str, preset: str) -> None:
    source = known[name]
    why = source.refused or source.refused_under.get(preset, "")
    if not why:
        return
    others = {n: s for n, s in known.items() if s.only_asked and n != name}
    way = f"; for other weights of these names, --variant: {_listed(others)}" if others else ""
    raise CheckpointError(f"{entry} does not take the weights of {name} ({source.of}): {why}{way}")


def _listed(sources: Mapping[str, Source]) -> str:
    return "; ".join(f"{name} ({s.of}{', refused: ' + s.refused if s.refused else ''})" for name, s in sources.items())


def _stripped(state: State) -> Iterator[tuple[str, State]]:
    """Yield the state dict as it is, then without each dotted prefix that all names share, shortest first."""
    yield "", state
    first = next(iter(state)).split(".")
    for count in range(1, len(first)):
        prefix = ".".join(first[:count]) + "."
        if not all(name.startswith(prefix) and len(name) > len(prefix) for name in state):
            return
        yield prefix, {name.removeprefix(prefix): value for name, value in state.items()}


def _partners(state: State, own: Collection[str]) -> tuple[int, int]:
    """How many names have a partner; of equal counts, the state dict with fewer others is better."""
    both = len(state.keys() & set(own))
    return both, both - len(state)


def _fitting(state: State, spec: Spec | None, own: Collection[str]) -> int:
    """How many names the module has, directly or through the key map."""
    try:
        return len(ours(state, spec, own).keys() & set(own))
    except CheckpointError:
        return 0
