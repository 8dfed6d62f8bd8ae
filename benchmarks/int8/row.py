"""One network in int8 by one method: what it keeps, what it answers, how long it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks import row_files

FILE = Path(__file__).with_name("rows.jsonl")


@dataclass(frozen=True)
class Row:
    """What was measured.

    Attributes:
        net: which network.
        method: how it was quantised.
        median_db: what the median test picture keeps of what varies, in dB; None for float32 itself.
        worst_db: the picture that keeps least.
        accuracy: share of test pictures that are right.
        change: that share less that of float32.
        low: lower end of its 95 % interval.
        high: upper end.
        ratio: time over that of the fused float32 model; None where the control was not 1.
        ratio_low: lower end of its 95 % interval.
        ratio_high: upper end.
        floats: layers that stayed in float32.
        load: of the machine when it was timed, over its cores.
        failure: why there is no figure.
        varies: of float32, the share of the energy of its outputs that varies between pictures.
    """

    net: str
    method: str
    median_db: float | None = None
    worst_db: float | None = None
    accuracy: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    floats: int = 0
    load: float = 0.0
    failure: str = ""
    varies: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What tells rows apart."""
        return self.net, self.method


def read(file: Path = FILE) -> dict[tuple[str, str], Row]:
    """Read the rows; of two of one key the later holds."""
    return row_files.read(file, Row)
