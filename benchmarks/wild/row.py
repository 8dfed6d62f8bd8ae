"""What one try gave, and the file of all tries: a line of JSON each, so that a run can be stopped and taken up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import row_files


@dataclass(frozen=True)
class Row:
    """One network, one try.

    Attributes:
        library: whose network it is.
        name: of the network.
        inputs: what was typed behind ``--input``.
        date: when it was run.
        exit: the exit code; None where the time limit stopped it.
        seconds: of wall time, the interpreter's start and the library's import included.
        exporter: seconds of those in the exporter.
        slowest: the slowest stage of ours.
        slowest_seconds: how long that took.
        nodes: of the graph as exported, and as written.
        norms: batch norms of the module, or of the trained file.
        exported_norms: batch norms of the graph as exported.
        left: batch norms of the graph as written.
        own_left: batch norms that the library's own fuse leaves.
        k: the largest error of any stage, in units of the float32 noise floor.
        message: the error, or nothing.
        warnings: what the command warned of.
    """

    library: str
    name: str
    inputs: tuple[str, ...]
    date: str
    exit: int | None
    seconds: float
    exporter: float | None = None
    slowest: str = ""
    slowest_seconds: float | None = None
    nodes: tuple[int, int] | None = None
    norms: int | None = None
    exported_norms: int | None = None
    left: int | None = None
    own_left: int | None = None
    k: float | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What a row is found by."""
        return self.library, self.name


def read(file: Path) -> dict[tuple[str, str], Row]:
    """Return the rows by library and name; of two tries of one network the later line holds."""
    return {row.key: row for row in map(row_of, row_files.lines(file))}


def row_of(line: str) -> Row:
    """Read one line."""
    data = json.loads(line)
    for name in ("inputs", "warnings", "nodes"):
        if data.get(name) is not None:
            data[name] = tuple(data[name])
    return Row(**data)


def append(file: Path, row: Row) -> None:
    """Add a row; it is on the disk before the next one is begun."""
    row_files.append(file, row)


def write(file: Path, rows: Iterable[Row]) -> None:
    """Write all rows anew, in order."""
    row_files.write(file, rows, lambda row: row.key)
