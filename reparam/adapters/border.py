"""A write over the border of a tensor, read off a tensor of NaN on which the write was run: for both adapters."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import torch
from torch import Tensor

from attn_export.reparam import ir
from attn_export.types import Array

#: (left, right) for each spatial axis.
Widths = Sequence[tuple[int, int]]


def fits_in(pads: Widths, ring: Widths) -> bool:
    """Whether everything that was padded is overwritten."""
    pairs = zip(pads, ring, strict=True)
    return all(0 <= p <= r for pad, end in pairs for p, r in zip(pad, end, strict=True))


def ring(marked: Tensor) -> ir.Border | None:
    """Read a marked tensor: a box of NaN, and around it one number for each channel."""
    untouched = torch.isnan(marked)
    pattern = untouched[0, 0]
    if not torch.equal(untouched, pattern.expand_as(untouched)) or not pattern.any():
        return None
    widths = []
    for axis in range(pattern.ndim):
        others = [n for n in range(pattern.ndim) if n != axis]
        line = pattern.amax(others) if others else pattern
        where = torch.nonzero(line).flatten()
        widths.append((int(where[0]), int(len(line) - 1 - where[-1])))
    box = torch.zeros_like(pattern)
    box[tuple(slice(left, size - right) for (left, right), size in zip(widths, pattern.shape, strict=True))] = True
    if not torch.equal(box, pattern):
        return None
    written = marked[:, :, ~pattern]
    value: Array = written[0, :, 0].numpy()
    if any(isnan(v) for v in value.tolist()) or not bool((written == written[:1, :, :1]).all()):
        return None
    return ir.Border(tuple(widths), value.copy(), ((0, 0),) * len(widths))
