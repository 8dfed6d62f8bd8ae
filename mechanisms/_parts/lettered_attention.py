"""The attentions of a deformable transformer by their letters.

L within windows, S within windows moved by half of one, D to points that queries place
"""

import math

from torch import nn

from attn_export.mechanisms._parts.deformable import DeformableAttention
from attn_export.mechanisms._parts.windows import WindowAttention


def lettered(
    kind: str, stage: int, channels: int, heads: int, window: int, side: int, groups: int | None, reach: float | None
) -> nn.Module:
    """Build the attention that a letter stands for, on a square map.

    Raises:
        ValueError: there is no such letter, or a D without groups and offset ranges.
    """
    match kind:
        case "L":
            return WindowAttention(channels, heads, window)
        case "S":
            return WindowAttention(channels, heads, window, math.ceil(window / 2), (side, side))
        case "D" if groups is not None and reach is not None:
            kernel = (9, 7, 5, 3)[min(stage, 3)]
            return DeformableAttention(channels, heads, groups, (side, side), kernel, 1, reach, channels_last=True)
    raise ValueError(f"layers are letters L, S or D, and D needs groups and offset_ranges; stage {stage} has {kind!r}")
