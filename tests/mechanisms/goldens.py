"""The reference vectors in ``tests/goldens`` and the table of which entry each belongs to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.mechanisms import rows_attention, rows_backbone, rows_conv, rows_mlp, rows_rep
from tests.mechanisms.row import Row

ROWS: dict[str, Row] = {**rows_attention.ROWS, **rows_backbone.ROWS, **rows_mlp.ROWS, **rows_conv.ROWS, **rows_rep.ROWS}
FOLDER = Path(__file__).parents[1] / "goldens"


@dataclass(frozen=True)
class Golden:
    """The content of one file."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    state: dict[str, Tensor]
    fused: dict[str, Tensor]
    meta: dict[str, Any]


def load(name: str) -> Golden:
    """Read one reference vector."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays.pop("meta")))

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}

    def ordered(items: dict[str, Tensor]) -> list[Tensor]:
        return [items[str(index)] for index in range(len(items))]

    return Golden(ordered(part("input.")), ordered(part("output.")), part("state."), part("fused."), meta)
