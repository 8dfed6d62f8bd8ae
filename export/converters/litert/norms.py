"""Take scales and shifts of norms out of the matrices into which LiteRT took them: what comes of them has codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attn_export.export.converters.litert.counterparts import Counterpart
from attn_export.export.converters.litert.flatbuffer import File


def take_out(file: File, found: Sequence[Counterpart]) -> None:
    """Put a MUL and an ADD in front of every operator that has taken a norm in; its weights are not changed here."""
    outside: dict[tuple[int, str], int] = {}
    made: list[Any] = []
    norms = {id(one.operator): one for one in found}
    for operator in file.operators:
        one = norms.get(id(operator))
        if one is not None and one.norm is not None:
            source = int(operator.inputs[0])
            key = source, one.layer.layer.reads
            if key not in outside:
                scale, shift = (file.add_tensor(source, "norm", "FLOAT32", part) for part in one.norm)
                scaled, outside[key] = (file.add_tensor(source, label, "FLOAT32") for label in ("scaled", "shifted"))
                made.append(file.operator("MUL", [source, scale], [scaled], options="MulOptions"))
                made.append(file.operator("ADD", [scaled, shift], [outside[key]], options="AddOptions"))
            operator.inputs = np.asarray([outside[key], *operator.inputs[1:]], np.int32)
        made.append(operator)
    file.graph.operators = made
