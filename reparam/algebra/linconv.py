"""Signals that are one convolution of an ancestor: an infinite signal seen through a window.

    v[o, q] = bias[o] + Σ_{i,t} kernel[o, i, t] · x̃[src[grp[o], i], s·q + taps[t]]      q ∈ [0, ⌊(H + A)/s⌋ + 1)

x̃ is the root x extended by zeros for ever. On the infinite signal every operator composes exactly; only padding
looks through the window, so only padding (and what compares windows) has a condition. Where border maps are allowed, a
border map of one size may stand beside the bias: v[o, q] = bias[o] + border_map[o, q] + Σ …, so that a padding may show
another constant than the bias. Everything is float64 and frozen; kernels and border maps are built when somebody asks
for them, since choosing what to merge needs their shape only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attn_export.reparam.algebra import border_map
from attn_export.reparam.algebra.border_map import Lazy
from attn_export.types import Array, Ints

#: A constant written in float32 equals a bias computed in float64 to this, relative to the larger of the two.
ROUNDING = 2.0**-21
#: The note of a value that has a border map.
BORDER = "border"


class NotFusibleError(Exception):
    """A condition of the algebra failed: the reason, and what would make it legal."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Axis:
    """One spatial axis: which offsets are read, the stride, the window, and the root's size if it is fixed."""

    taps: tuple[int, ...]
    stride: int
    extent: int
    size: int | None

    @property
    def lo(self) -> int:
        """The first offset that is read."""
        return self.taps[0]

    @property
    def hi(self) -> int:
        """The last offset that is read."""
        return self.taps[-1]

    def length(self, size: int) -> int:
        """How many positions the window shows of a root with ``size`` positions."""
        return (size + self.extent) // self.stride + 1


@dataclass(frozen=True, eq=False)
class LinConv:
    """A value that is one convolution of its root.

    Attributes:
        axes: the spatial axes.
        channels: how many channels the root has.
        src: for each class of outputs, the root channels it reads; -1 pads short rows.
        grp: the class of each output channel.
        kernel: ``(outputs, width of src, *numbers of taps)``.
        bias: one number for each output channel.
        bias_magnitude: sums of magnitudes of what was added up to each bias, which bounds its rounding.
        biased: whether any constant was ever added, whatever its value.
        notes: what the composition relied on: "static" sizes, "value" coincidences, "rounding" of a constant, a
            "border" map.
        border_map: what is added at each position besides the bias, ``(outputs, *lengths)``; None is zero everywhere.
        border_maps: whether such a border map may be made.
    """

    axes: tuple[Axis, ...]
    channels: int
    src: Ints
    grp: Ints
    kernel: Lazy
    bias: Array
    bias_magnitude: Array
    biased: bool = False
    notes: frozenset[str] = frozenset()
    border_map: Lazy | None = None
    border_maps: bool = False

    @property
    def lengths(self) -> tuple[int, ...] | None:
        """Count its positions along each spatial axis; None where that is not fixed."""
        sizes = [None if axis.size is None else axis.length(axis.size) for axis in self.axes]
        known = tuple(n for n in sizes if n is not None)
        return known if len(known) == len(sizes) else None

    @property
    def outputs(self) -> int:
        """How many channels the value has."""
        return len(self.grp)

    @property
    def width(self) -> int:
        """How many root channels an output reads at most."""
        return int(self.src.shape[1])


def identity(channels: int, sizes: Sequence[int | None], *, border_maps: bool = False) -> LinConv:
    """Return the root itself; with ``border_maps``, what is made of it may have a border map."""
    axes = tuple(Axis((0,), 1, -1, size) for size in sizes)
    index = np.arange(channels)
    ones = Lazy(lambda: np.ones((channels, 1, *(1,) * len(axes))))
    zeros = np.zeros(channels)
    return LinConv(axes, channels, index[:, None], index, ones, zeros, zeros, border_maps=border_maps)


def scale(v: LinConv, factor: Array) -> LinConv:
    """Multiply each channel by a number."""
    column = factor.reshape(-1, *(1,) * (1 + len(v.axes)))
    return replace(
        v,
        kernel=Lazy(lambda: v.kernel() * column, v.kernel),
        bias=v.bias * factor,
        bias_magnitude=v.bias_magnitude * abs(factor),
        border_map=changed(v, lambda i: i * column[..., 0]),
    )


def changed(v: LinConv, change: Callable[[Array], Array]) -> Lazy | None:
    """Change the border map, if there is one."""
    before = v.border_map
    return None if before is None else Lazy(lambda: change(before()), before)


def shift(v: LinConv, term: Array) -> LinConv:
    """Add a number to each channel."""
    return replace(v, bias=v.bias + term, bias_magnitude=v.bias_magnitude + abs(term), biased=True)


def with_border_map(v: LinConv, values: Array) -> LinConv:
    """Add a number to each channel and position, ``(outputs, *lengths)``: only where they are allowed."""
    assert v.border_maps
    return replace(
        v, border_map=border_map.total([v.border_map, Lazy(lambda: values)]), notes=v.notes | {"static", BORDER}
    )


def rows(v: LinConv, index: Ints) -> LinConv:
    """Select, repeat or permute channels."""
    if len(index) == v.outputs and np.array_equal(index, np.arange(v.outputs)):
        return v
    return replace(
        v,
        grp=v.grp[index],
        kernel=Lazy(lambda: v.kernel()[index], v.kernel),
        bias=v.bias[index],
        bias_magnitude=v.bias_magnitude[index],
        border_map=changed(v, lambda i: i[index]),
    )


def with_axis(v: LinConv, dim: int, axis: Axis, *notes: str) -> LinConv:
    """Replace one axis."""
    return replace(v, axes=(*v.axes[:dim], axis, *v.axes[dim + 1 :]), notes=v.notes | set(notes))


def stride(v: LinConv, dim: int, step: int) -> LinConv:
    """Keep every ``step``-th position."""
    axis = v.axes[dim]
    thinned = replace(v, border_map=changed(v, lambda i: border_map.strided(i, dim, step)))
    return with_axis(thinned, dim, replace(axis, stride=axis.stride * step))


def pad(v: LinConv, dim: int, left: int, right: int, value: float | Array = 0.0) -> LinConv:
    """Pad with a constant (negative amounts crop, which is always exact).

    Raises:
        NotFusibleError: the padding would show what lies outside the window, or another constant than the bias where
            border maps are not allowed.
    """
    axis, notes, shown = v.axes[dim], set[str](), np.broadcast_to(value, v.bias.shape) - v.bias
    if left > 0 or right > 0:
        if left > 0 and axis.hi >= axis.stride:
            raise NotFusibleError(
                f"it is padded after a window that already reached {axis.hi - axis.stride + 1} past the left border",
                "pad once, before the first convolution",
            )
        if right > 0 and axis.extent + 1 + axis.lo < 0:
            if axis.size is None:
                raise NotFusibleError(
                    "the right padding is exact for some sizes only, and this axis is dynamic", "export a fixed size"
                )
            if axis.stride * axis.length(axis.size) + axis.lo < axis.size:
                raise NotFusibleError(
                    "it is padded after a window that already reached past the right border",
                    "pad once, before the first convolution",
                )
            notes.add("static")
        if v.border_map is None:
            try:
                notes |= _constant_matches(v, value)
            except NotFusibleError as mismatch:
                v = _with_map(v, mismatch)
    v = replace(v, border_map=changed(v, lambda i: border_map.padded(i, dim, left, right, shown)))
    wider = replace(axis, taps=tuple(t - axis.stride * left for t in axis.taps))
    return with_axis(v, dim, replace(wider, extent=axis.extent + axis.stride * (left + right)), *notes)


def _constant_matches(v: LinConv, value: float | Array) -> set[str]:
    """Check that the padding shows what the infinite signal has there: the bias."""
    gap = np.abs(v.bias - value)
    if not gap.any():
        return {"value"} if v.biased else set()
    # Cancellation inside a batch norm's constant hides how large its parts were: the largest channel stands for all.
    size = max(float(v.bias_magnitude.max(initial=0)), float(np.max(np.abs(value))))
    if np.any(gap > ROUNDING * size):
        worst = int(np.argmax(gap))
        shown = float(np.broadcast_to(value, v.bias.shape)[worst])
        raise NotFusibleError(
            f"it is padded with {shown:.3g} where its bias makes {v.bias[worst]:.3g} (channel {worst})",
            "pad before the bias is added, pad with the bias, or drop the bias",
        )
    return {"value", "rounding"} if np.any(gap > 1e-14 * size) else {"value"}


def _with_map(v: LinConv, mismatch: NotFusibleError) -> LinConv:
    """Give a value a border map, zero so far, where that makes a padding with another constant legal.

    Raises:
        NotFusibleError: border maps are not allowed, or sizes are not fixed.
    """
    lengths = v.lengths
    if lengths is None:
        allow = "" if v.border_maps else "allow a border map with --border-maps, and "
        raise NotFusibleError(
            mismatch.reason
            + (", and a border map holds for one size, but an axis is dynamic" if v.border_maps else ""),
            f"{mismatch.remedy}; or {allow}export a fixed size",
        )
    if not v.border_maps:
        raise NotFusibleError(mismatch.reason, f"{mismatch.remedy}; or allow a border map with --border-maps")
    return replace(v, border_map=Lazy(lambda: np.zeros((v.outputs, *lengths))), notes=v.notes | {"static", BORDER})
