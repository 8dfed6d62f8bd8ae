"""The attentions of a deformable transformer by their letters.

L within windows, S within windows moved by half of one, D to points that queries place
"""

import math
import re
from typing import Literal

from torch import Tensor, nn

from attn_export.mechanisms._layers.deformable import DeformableAttention
from attn_export.mechanisms._layers.windows import WindowAttention


def lettered(
    kind: str,
    stage: int,
    channels: int,
    heads: int,
    window: int,
    side: int,
    groups: int | None,
    reach: float | None,
    release: Literal["2022", "2023"] = "2022",
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
            size = (side, side)
            return DeformableAttention(
                channels, heads, groups, size, kernel, 1, reach, channels_last=True, release=release
            )
    raise ValueError(f"layers are letters L, S or D, and D needs groups and offset_ranges; stage {stage} has {kind!r}")


def blockwise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Norms are counted through a stage there; here each block has two."""

    def name(old: str) -> str:
        return re.sub(r"layer_norms\.(\d+)\.norm\.", lambda n: f"{int(n[1]) // 2}.norm{int(n[1]) % 2 + 1}.", old)

    return {name(old): value for old, value in state.items()}
