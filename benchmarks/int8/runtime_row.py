"""One network in int8 on one runtime: what it keeps there, and what a compiler puts on its accelerator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks import row_files

FILE = Path(__file__).with_name("runtimes.jsonl")


@dataclass(frozen=True)
class RuntimeRow:
    """What was measured.

    Attributes:
        net: which network.
        runtime: what ran or compiled it, with its version.
        median_db: what the median test picture keeps of what varies, in dB; None where nothing ran.
        worst_db: the picture that keeps least.
        beside_db: the same of the median picture against the answers of ONNX Runtime's integer kernels.
        layers: layers that are int8 in the ONNX file.
        floats: those of them that are float in the runtime's file.
        accelerator: operators on the accelerator.
        cpu: operators beside it.
        cycles: of the accelerator, by the compiler's own model of it; None where it gives none.
        sram: KiB of its memory, likewise.
        failure: why there is no figure.
    """

    net: str
    runtime: str
    median_db: float | None = None
    worst_db: float | None = None
    beside_db: float | None = None
    layers: int = 0
    floats: int = 0
    accelerator: int | None = None
    cpu: int | None = None
    cycles: float | None = None
    sram: float | None = None
    failure: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What tells rows apart."""
        return self.net, self.runtime


def read(file: Path = FILE) -> dict[tuple[str, str], RuntimeRow]:
    """Read the rows; of two of one key the later holds."""
    return row_files.read(file, RuntimeRow)
