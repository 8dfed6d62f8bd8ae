"""What every entry costs at common shapes: the rows that ``choose`` and its page read, free of torch.

Rows come from ``python -m benchmarks.common_shapes``, which adds them one by one; of two of one key the later holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

#: Beside this file, so that they come with an installed package.
FILE = Path(__file__).with_name("common_shapes.jsonl")
#: Where entries are compared: maps b x c x h x w, tokens b x n x c, and images for whole networks.
SHAPES = ("2x64x56x56", "2x256x14x14", "1x196x384", "1x3x224x224")
#: Of whole networks, for which no convolution is of the same shape.
NETWORKS = SHAPES[-1]

Budget = Literal["free", "light", "heavy"]
BUDGETS: tuple[str, ...] = get_args(Budget)


@dataclass(frozen=True)
class ShapeRow:
    """One entry at one shape, as it is deployed: fused, fixed sizes, float32.

    Attributes:
        entry: its name in the catalogue.
        shape: of the comparison; what has its channels last takes the same map as ``b h w c``.
        call: the constructor and its arguments.
        why_not: why the entry cannot be measured there; all below is None then.
        parameters: numbers that training learns, before fusing.
        macs: multiply-accumulates of the graph.
        peak_bytes: of activations that live at once (``export.graph.activations``).
        nodes: of the graph.
        ratio: CPU time over that of the yardstick, on ONNX Runtime with one thread: a 3 x 3 convolution of as many
            channels on the same map (of tokens, on the square map that they are of), or ResNet-50 for networks.
        low: of the interval of the median over the rounds, 95 %.
        high: of the same.
        control: each of the two against itself, which is 1 but for noise.
        machine: processor and runtime.
        load: processes that wanted a core during the minute before.
        date: when.
    """

    entry: str
    shape: str
    call: str = ""
    why_not: str = ""
    parameters: int | None = None
    macs: int | None = None
    peak_bytes: int | None = None
    nodes: int | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    control: float | None = None
    machine: str = ""
    load: float | None = None
    date: str = ""

    @cached_property
    def key(self) -> tuple[str, str]:
        """What it is a row of."""
        return self.entry, self.shape

    @property
    def budget(self) -> Budget | None:
        """What it costs against the yardstick, by the whole interval: at most a quarter, at most as much, or more.

        >>> ShapeRow("a", "s", ratio=0.2, low=0.1, high=0.25).budget, ShapeRow("a", "s", ratio=1, low=1, high=2).budget
        ('free', 'heavy')
        """
        if self.high is None:
            return None
        return "free" if self.high <= 0.25 else "light" if self.high <= 1 else "heavy"


def read(file: Path = FILE) -> dict[tuple[str, str], ShapeRow]:
    """Read the rows by entry and shape; none where there is no file."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [ShapeRow(**json.loads(line)) for line in lines if line.strip()]
    return {row.key: row for row in rows}


def append(row: ShapeRow, file: Path = FILE) -> None:
    """Add a row; it is in the file before the next one is measured."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{json.dumps(asdict(row))}\n")


def write(rows: Iterable[ShapeRow], file: Path = FILE) -> None:
    """Write the file anew, in order."""
    ordered = sorted(rows, key=lambda row: (row.entry, SHAPES.index(row.shape)))
    file.write_text("".join(f"{json.dumps(asdict(row))}\n" for row in ordered), encoding="utf-8")
