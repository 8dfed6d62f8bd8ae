"""Constant images: the number at each channel and position that a value has besides its bias, ``(c, *space)``.

A padding that shows another constant than the bias leaves such an image: their difference in the border, 0 inside. It
is a finite signal of its own, zero wherever nothing was ever padded wrongly, so what follows acts on it as on any
tensor. It holds for one size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from attn_export.types import Array

#: Arrays of more numbers than this are computed each time: of several on the way to a kernel, one is in memory.
MOST_KEPT = 1 << 25


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


def padded(image: Array, dim: int, left: int, right: int, shown: Array) -> Array:
    """Pad along a spatial axis with one number for each channel; negative amounts crop."""
    axis, size = dim + 1, image.shape[dim + 1]
    cut: list[Any] = [slice(None)] * image.ndim
    cut[axis] = slice(max(0, -left), size - max(0, -right))
    edges = []
    for amount in (left, right):
        shape = list(image.shape)
        shape[axis] = max(0, amount)
        edges.append(np.broadcast_to(shown.reshape(-1, *(1,) * (image.ndim - 1)), shape))
    return np.concatenate([edges[0], image[tuple(cut)], edges[1]], axis=axis)


def strided(image: Array, dim: int, step: int) -> Array:
    """Keep every ``step``-th position along a spatial axis."""
    cut: list[Any] = [slice(None)] * image.ndim
    cut[dim + 1] = slice(None, None, step)
    return np.asarray(image[tuple(cut)])


def convolved(image: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], groups: int) -> Array:
    """Convolve without padding."""
    outputs, width, sizes = weight.shape[0], weight.shape[1], weight.shape[2:]
    lengths = [
        (n - d * (k - 1) - 1) // s + 1
        for n, d, k, s in zip(image.shape[1:], dilations, sizes, strides, strict=True)
    ]  # fmt: skip
    kernel = weight.reshape(groups, outputs // groups, width, *sizes)
    result = np.zeros((groups, outputs // groups, int(np.prod(lengths, dtype=int))))
    for tap in product(*map(range, sizes)):
        reads = zip(tap, dilations, lengths, strides, strict=True)
        cut: Any = (slice(None), *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in reads))
        place: Any = (slice(None),) * 3 + tap
        result += kernel[place] @ image[cut].reshape(groups, width, -1)
    return result.reshape(outputs, *lengths)


def total(images: Sequence[Lazy | None]) -> Lazy | None:
    """The sum of images, where None is zero everywhere."""
    given = [image for image in images if image is not None]
    return Lazy(lambda: np.sum([image() for image in given], axis=0), *given) if given else None


def joined(images: Sequence[Lazy | None], channels: Sequence[int], lengths: Sequence[int]) -> Lazy | None:
    """Images one after the other along the channels, where None is zero everywhere."""
    if all(image is None for image in images):
        return None
    pairs = list(zip(images, channels, strict=True))
    return Lazy(lambda: np.concatenate([np.zeros((n, *lengths)) if i is None else i() for i, n in pairs]), *images)
