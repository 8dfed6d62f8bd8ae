"""What one entry gave on one target, and the files of rows: a line of JSON each, so that a run can go on later."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from benchmarks import row_files

#: What the reason of an entry begins with that was stopped at the time limit: it says nothing of the target.
STOPPED = "stopped after"
#: What a run measures only when it is asked to, so that a later run without it does not lose it.
_KEPT = ("faults_caught", "latency_ratio", "ratio_low", "ratio_high", "control_low", "control_high", "load")


@dataclass(frozen=True)
class Row:
    """One entry on one target; None is what was not measured, or cannot be.

    Attributes:
        target: as it is typed behind ``--to`` or ``--target``.
        entry: its name in the catalogue.
        preset: of the entry.
        fused: whether a region of it was collapsed first.
        converted: whether the converter or compiler took it.
        share_on_accelerator: of the nodes, from 0 to 1, that do not fall back to a processor or an interpreter.
        ran: whether it ran to the end on what the target is, or on its simulator.
        k: the largest error in units of the float32 noise floor, where it is held to that; four are allowed.
        snr_db: the smallest signal-to-noise ratio, where it is held to that.
        left_out: cases that the file takes at no size; they are not judged.
        faults_caught: planted faults that were found, of how many.
        latency_ratio: its time over that of the ONNX model on the default backend, same bundle, same machine.
        ratio_low: of the 95 % interval.
        ratio_high: of the same.
        control_low: of the interval of each model against itself, which must hold 1.
        control_high: of the same.
        load: processes that wanted a core while the times were taken, on average over the minute before the end.
        reason: why it was not converted, did not run or is not right; empty where all went well.
        evidence: ``E0`` to ``E2``, or ``simulated``.
        versions: of what converted it and of what ran it.
        machine: where that was.
        date: when.
        seconds: of wall time for all of it.
    """

    target: str
    entry: str
    preset: str = "test"
    fused: bool | None = None
    converted: bool | None = None
    share_on_accelerator: float | None = None
    ran: bool | None = None
    k: float | None = None
    snr_db: float | None = None
    left_out: int | None = None
    faults_caught: tuple[int, int] | None = None
    latency_ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    control_low: float | None = None
    control_high: float | None = None
    load: float | None = None
    reason: str = ""
    evidence: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    date: str = ""
    seconds: float | None = None

    @property
    def right(self) -> bool | None:
        """Whether what ran is the reference; None where nothing was compared."""
        if not self.ran or (self.k is None and self.snr_db is None and not self.reason):
            return None
        return not self.reason

    @property
    def stopped(self) -> bool:
        """Whether the time was up before anything was known."""
        return self.reason.startswith(STOPPED)

    def onto(self, old: Row | None) -> Row:
        """Take over what was measured before, of the same versions and not again.

        Where the time was up this time, an older answer stands, with the versions and the date that it has.
        """
        if old is not None and self.stopped and not old.stopped and old.preset == self.preset:
            return old
        if old is None or old.versions != self.versions or old.preset != self.preset or not self.right:
            return self
        return replace(self, **{name: getattr(old, name) for name in _KEPT if getattr(self, name) is None})


def file_of(folder: Path, target: str) -> Path:
    """Say where the rows of a target lie.

    >>> file_of(Path("d"), "qnn:sm8650").name
    'qnn-sm8650.jsonl'
    """
    return folder / f"{target.replace(':', '-')}.jsonl"


def read(file: Path) -> dict[str, Row]:
    """Return the rows of a file by entry; of two of one entry the later line holds."""
    return {row.entry: row for row in map(row_of, row_files.lines(file))}


def row_of(line: str) -> Row:
    """Read one line.

    Raises:
        ValueError: it has a field that no row has.
    """
    data: dict[str, Any] = json.loads(line)
    if unknown := data.keys() - {one.name for one in fields(Row)}:
        raise ValueError(f"expected the fields of a row, got {', '.join(sorted(unknown))}")
    if data.get("faults_caught") is not None:
        caught, planted = data["faults_caught"]
        data["faults_caught"] = caught, planted
    return Row(**data)


def append(file: Path, row: Row) -> None:
    """Add a row; it is on the disk before the next one is begun."""
    row_files.append(file, row)


def write(file: Path, rows: Iterable[Row]) -> None:
    """Write all rows anew, in order."""
    row_files.write(file, rows, lambda row: row.entry)
