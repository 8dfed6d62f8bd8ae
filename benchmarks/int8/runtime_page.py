"""The page's section on other runtimes, from the rows."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.int8.runtime_row import RuntimeRow

HEAD = """
## The same model on other runtimes

Measured by `python -m benchmarks.int8.runtimes` (rows: `benchmarks/int8/runtimes.jsonl`). *Ours* of the tables above,
from one quantisation, as each runtime takes it: OpenVINO the graph with its pairs, LiteRT a `.tflite` with the same
codes, Qualcomm's compiler the graph, Arm's the `.tflite`. *Keeps* is as above, of 200 test pictures, of 50 where a
simulator runs them. *Beside ONNX Runtime* is the same ratio of the median picture against the answers of ONNX Runtime's
integer kernels: how much more, or other, rounding there is; *the same* is to the last bits of float32. A layer *in
float32* is int8 in the ONNX file and is not here. Where operators run, and how many cycles that takes, is what the
compiler says; nothing of it ran on a chip.

"""
#: Decibels from which two answers differ by no more than the last bits of float32.
SAME = 100.0
_COLUMNS = (
    *("network", "runtime", "keeps, median", "worst", "beside ONNX Runtime", "in int8", "in float32"),
    *("on the accelerator", "NPU cycles", "SRAM"),
)


def section(rows: Sequence[RuntimeRow]) -> str:
    """Give the section's text."""
    lines = [_line(_COLUMNS), "|" + "---|" * len(_COLUMNS), *(_line(_cells(row)) for row in rows)]
    return HEAD + "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(row: RuntimeRow) -> tuple[str, ...]:
    placed = "" if row.accelerator is None else f"{row.accelerator} of {row.accelerator + (row.cpu or 0)}"
    return (
        row.net,
        row.runtime,
        row.failure or _decibels(row.median_db),
        _decibels(row.worst_db),
        "the same" if row.beside_db is not None and row.beside_db > SAME else _decibels(row.beside_db),
        str(row.layers - row.floats or ""),
        str(row.floats or ""),
        placed,
        "" if row.cycles is None else f"{row.cycles:,.0f}",
        "" if row.sram is None else f"{row.sram:.0f} KiB",
    )


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB"
