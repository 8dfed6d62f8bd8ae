"""Weights that two graphs have in common: they are made float64 once, for both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from attn_export.types import Array


class Shared(Mapping[str, Array]):
    """Weights of another evaluation that are these as well, by name, beside some of one's own."""

    def __init__(self, weights: Mapping[str, Array], names: Set[str], own: Mapping[str, Array] | None = None) -> None:
        self._weights, self._names, self._own = weights, names, own or {}

    def __getitem__(self, name: str) -> Array:
        """Return one of them, made when it is first asked for."""
        if name in self._own:
            return self._own[name]
        if name not in self._names:
            raise KeyError(name)
        return self._weights[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is one of that name; makes nothing."""
        return name in self._own or name in self._names

    def __iter__(self) -> Iterator[str]:
        """Iterate over names."""
        return iter({**self._own, **dict.fromkeys(self._names)})

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._own.keys() | self._names)
