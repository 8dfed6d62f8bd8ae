"""Conversions of tensors that several key maps share: pure functions between state dicts.

PyTorch is imported where tensors are joined, so that naming the sources of an entry costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

State = dict[str, Any]
Convert = Callable[[State], State]


def chain(*steps: Convert) -> Convert:
    """Run one conversion after the other."""

    def run(state: State) -> State:
        for step in steps:
            state = step(state)
        return state

    return run


def split(name: str, parts: Sequence[str], sizes: Sequence[int] | None = None) -> Convert:
    """Cut ``name.weight`` and ``name.bias`` along their first axis into ``parts``.

    Args:
        name: of the joined layer; its tensors are ``name.weight`` and ``name.bias``, or ``name_weight`` as PyTorch's
            attention has it.
        parts: names of the layers that come out.
        sizes: shares of the parts, of which the whole is a multiple; equal ones unless given.
    """

    def run(state: State) -> State:
        state = dict(state)
        for kind in ("weight", "bias"):
            for whole in (f"{name}.{kind}", f"{name}_{kind}"):
                if whole in state:
                    tensor = state.pop(whole)
                    shares = sizes or (1,) * len(parts)
                    unit, rest = divmod(tensor.shape[0], sum(shares))
                    if rest:
                        raise ValueError(f"{whole} has {tensor.shape[0]} rows, which {len(parts)} layers do not share")
                    cut = tensor.split([unit * share for share in shares])
                    state |= {f"{part}.{kind}": one for part, one in zip(parts, cut, strict=True)}
        return state

    return run


def scaled(factor: float, *names: str) -> Convert:
    """Multiply some tensors by a number."""

    def run(state: State) -> State:
        return {name: value * factor if name in names else value for name, value in state.items()}

    return run


def zeros(name: str, like: str) -> Convert:
    """Add a bias of zeros for the layer ``like``, which has none."""

    def run(state: State) -> State:
        return {**state, name: state[like].new_zeros(state[like].shape[0])} if name not in state else state

    return run


def moved_into_mean(bias: str, mean: str) -> Convert:
    """Take a bias that stands before a batch norm into its running mean."""

    def run(state: State) -> State:
        state = dict(state)
        if bias in state:
            state[mean] = state[mean] - state.pop(bias)
        return state

    return run


def flat(*endings: str) -> Convert:
    """Drop the axes of length one of the tensors whose names end so."""

    def run(state: State) -> State:
        return {name: value.flatten() if name.endswith(endings) else value for name, value in state.items()}

    return run


def scale_norm(scale: str, norm: str) -> Convert:
    """Take a layer scale behind a batch norm into the norm's own scale and shift."""

    def run(state: State) -> State:
        state = dict(state)
        if scale in state:
            gamma = state.pop(scale).flatten()
            for kind in ("weight", "bias"):
                state[f"{norm}.{kind}"] = state[f"{norm}.{kind}"] * gamma
        return state

    return run


def joined(parts: Sequence[Any]) -> Any:
    """Join tensors along their first axis."""
    import torch

    return torch.cat(list(parts))


def numbered(state: State, pattern: str) -> list[tuple[int, ...]]:
    r"""List, in order, the numbers that stand in the groups of ``pattern`` in the names.

    >>> numbered({"a.1.w": 0, "a.0.w": 0, "a.0.b": 0}, r"^a[.](\d+)[.]")
    [(0,), (1,)]
    """
    import re

    found = {tuple(map(int, match.groups())) for name in state if (match := re.search(pattern, name))}
    return sorted(found)
