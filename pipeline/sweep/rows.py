"""The table of a sweep, ``sweep.json``: one row a job, written by whoever asked for the sweep and by nobody else."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.deploy_tests.machine import environment
from attn_export.errors import WriteError
from attn_export.untrusted import fields, plain_json

RESULTS = "sweep.json"
#: Ends that are no verdict on the model, and the exit code of a sweep that has nothing worse.
UNDECIDED = {
    "died": 5,
    "too slow": 5,
    "too large": 5,
    "InconclusiveError": 5,
    "BackendMissingError": 4,
    "other versions": 3,
}
#: Not run, for want of the bundle: what failed is the job that makes it.
NO_BUNDLE = "no bundle"
#: The table is written again when this many times what the last writing took has passed: a tenth of the time at most.
_REST = 9.0


@dataclass(frozen=True)
class SweepRow:
    """The end of one job: ``passed``, or which kind of failure with its sentence.

    Attributes:
        seconds: how long the job ran.
        key: what the result holds for; equal keys, equal results.
        where: the machine that ran it; empty where that is the one that asked.
        began: when it began there, in seconds since 1970 by that machine's clock.
    """

    label: str
    status: str
    message: str
    seconds: float
    key: str
    result: Mapping[str, Any] | None = None
    cached: bool = False
    where: str = ""
    began: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every gate passed."""
        return self.status == "passed"


def exit_code(rows: Sequence[SweepRow]) -> int:
    """Say what a sweep ends with: 1 where a job failed, else the least of the codes of those without a verdict.

    >>> row = SweepRow("a", "passed", "", 0, "")
    >>> exit_code([row]), exit_code([row, SweepRow("b", "died", "", 0, "")])
    (0, 5)
    >>> exit_code([SweepRow("b", "died", "", 0, ""), SweepRow("c", "ExportError", "", 0, "")])
    1
    """
    return min((UNDECIDED.get(row.status, 1) for row in rows if not row.ok and row.status != NO_BUNDLE), default=0)


@dataclass(frozen=True)
class _Results:
    """What ``sweep.json`` holds."""

    rows: tuple[SweepRow, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)


class Table:
    """The rows as they stand on disk.

    Args:
        folder: where ``sweep.json`` lies.

    Raises:
        WriteError: the file is something else, and would be overwritten.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / RESULTS
        self.rows: dict[str, SweepRow] = _read(self._file)
        self._environment = environment.describe()
        self._due = 0.0

    def put(self, row: SweepRow) -> None:
        """Put a row in the place of the last one of its label, on disk too unless that was written only just now."""
        self.rows[row.label] = row
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Write all rows, or nothing.

        Raises:
            WriteError: there is no space, or the folder is gone.
        """
        began = time.monotonic()
        partial = self._file.with_suffix(".partial")
        content = {"environment": self._environment, "rows": [asdict(row) for row in self.rows.values()]}
        try:
            bundle.write_json(partial, content)
            partial.replace(self._file)
        except OSError as error:
            raise unwritable(self._file, error) from error
        now = time.monotonic()
        self._due = now + _REST * (now - began)


def _read(file: Path) -> dict[str, SweepRow]:
    if not os.path.lexists(file):
        return {}
    content = plain_json.read(file, WriteError)
    if not isinstance(content, dict) or content.keys() != {"environment", "rows"}:
        raise WriteError(
            f"{file} is not the result of a sweep, and would be overwritten; choose another folder with -o"
        )
    try:
        return {row.label: row for row in fields.build(_Results, content).rows}
    except ValueError:
        return {}  # one of another version: run everything


def unwritable(place: Path, error: OSError) -> WriteError:
    """Say that a sweep could not be written, and the way out."""
    why = error.strerror or str(error)
    return WriteError(f"cannot write the sweep {place}: {why}; free some space or choose another place with -o")
