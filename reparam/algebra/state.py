"""What the algebra knows of a value: which convolution of its root it is, how it lies, and what upsamples it.

A value that has more positions than its root is ``upsampling(coarse)``: a convolution on the root's grid whose
C · phases channels are then laid out over the finer grid. Whatever treats all positions of a channel alike (scalings,
sums, 1×1) can be done before as well as after, on fewer positions.

    repeat       nearest upsampling           C channels, each shown factor times along each axis
    shuffle      pixel shuffle                C·phases channels, phase (p_y, p_x) goes to (f·q_y + p_y, f·q_x + p_x)
    transposed   transposed convolution       as shuffle: each phase is an ordinary convolution; ``trim`` fine positions
                                              at the end are not shown
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from attn_export.reparam.algebra.layout import Layout
from attn_export.reparam.algebra.linconv import LinConv


@dataclass(frozen=True)
class Upsampling:
    """How coarse channels become fine positions: by which operator, how many along each axis, how many cut off."""

    kind: Literal["repeat", "shuffle", "transposed"]
    factors: tuple[int, ...]
    trim: tuple[int, ...]

    @property
    def phases(self) -> int:
        """How many coarse channels make one fine channel."""
        return 1 if self.kind == "repeat" else prod(self.factors)


@dataclass(frozen=True, eq=False)
class State:
    """A value as one convolution of a root, and how it lies in its tensor (or the coarse one, before upsampling)."""

    lin: LinConv
    layout: Layout
    upsampling: Upsampling | None = None
