"""Border maps: the number at each channel and position that a value has besides its bias, ``(c, *space)``.

A padding that shows another constant than the bias leaves such a map: their difference in the border, 0 inside. It
is a finite signal of its own, zero wherever nothing was ever padded wrongly, so what follows acts on it as on any
tensor. It holds for one size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from attn_export.types import Array

#: Arrays of more numbers than this are computed each time: of several on the way to a kernel, one is in memory. Most
#: are asked for once: to keep them saves next to no time, and takes as much memory as the fused kernels themselves.
MOST_KEPT = 1 << 18
#: What is computed from what is computed … so many times over is computed at once: each level is a call on the stack.
DEEPEST = 64


class Lazy:
    """An array that is computed when first asked for, from what ``of`` holds, and kept unless it is very large."""

    def __init__(self, build: Callable[[], Array], *of: Lazy | None) -> None:
        self._build: Callable[[], Array] | None = build
        self._value: Array | None = None
        self.depth: int = 1 + max((other.depth for other in of if other is not None), default=0)
        if self.depth > DEEPEST:
            self()

    def __call__(self) -> Array:
        """Return the array."""
        if self._value is not None:
            return self._value
        assert self._build is not None
        value = self._build()
        if value.size <= MOST_KEPT:
            self._value, self._build, self.depth = value, None, 0
        return value


def padded(values: Array, dim: int, left: int, right: int, shown: Array) -> Array:
    """Pad along a spatial axis with one number for each channel; negative amounts crop."""
    axis, size = dim + 1, values.shape[dim + 1]
    cut: list[Any] = [slice(None)] * values.ndim
    cut[axis] = slice(max(0, -left), size - max(0, -right))
    edges = []
    for amount in (left, right):
        shape = list(values.shape)
        shape[axis] = max(0, amount)
        edges.append(np.broadcast_to(shown.reshape(-1, *(1,) * (values.ndim - 1)), shape))
    return np.concatenate([edges[0], values[tuple(cut)], edges[1]], axis=axis)


def strided(values: Array, dim: int, step: int) -> Array:
    """Keep every ``step``-th position along a spatial axis."""
    cut: list[Any] = [slice(None)] * values.ndim
    cut[dim + 1] = slice(None, None, step)
    return np.asarray(values[tuple(cut)])


def convolved(values: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], groups: int) -> Array:
    """Convolve without padding."""
    outputs, width, sizes = weight.shape[0], weight.shape[1], weight.shape[2:]
    lengths = [
        (n - d * (k - 1) - 1) // s + 1
        for n, d, k, s in zip(values.shape[1:], dilations, sizes, strides, strict=True)
    ]  # fmt: skip
    kernel = weight.reshape(groups, outputs // groups, width, *sizes)
    result = np.zeros((groups, outputs // groups, int(np.prod(lengths, dtype=int))))
    for tap in product(*map(range, sizes)):
        reads = zip(tap, dilations, lengths, strides, strict=True)
        cut: Any = (slice(None), *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in reads))
        place: Any = (slice(None),) * 3 + tap
        result += kernel[place] @ values[cut].reshape(groups, width, -1)
    return result.reshape(outputs, *lengths)


def total(maps: Sequence[Lazy | None]) -> Lazy | None:
    """Sum border maps, where None is zero everywhere."""
    given = [one for one in maps if one is not None]
    return Lazy(lambda: np.sum([one() for one in given], axis=0), *given) if given else None


def joined(maps: Sequence[Lazy | None], channels: Sequence[int], lengths: Sequence[int]) -> Lazy | None:
    """Join border maps along the channels, where None is zero everywhere."""
    if all(one is None for one in maps):
        return None
    pairs = list(zip(maps, channels, strict=True))
    return Lazy(lambda: np.concatenate([np.zeros((n, *lengths)) if i is None else i() for i, n in pairs]), *maps)
