"""Files of rows, one JSON object a line: rows are added as they come, and a file may be written anew in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    R = TypeVar("R", bound=DataclassInstance)

    class Keyed(DataclassInstance, Protocol):
        """A row that knows what tells it from others."""

        @property
        def key(self) -> tuple[str, str]:
            """What it is a row of, and the rest."""

    K = TypeVar("K", bound=Keyed)


def lines(file: Path) -> list[str]:
    """Read the lines that hold a row; none where there is no file."""
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()] if file.exists() else []


def read(file: Path, kind: type[K]) -> dict[tuple[str, str], K]:
    """Read rows of one kind by their keys; of two of one key the later holds."""
    found = (kind(**json.loads(line)) for line in lines(file))
    return {row.key: row for row in found}


def append(file: Path, row: DataclassInstance) -> None:
    """Add a row; it is on the disk before the next one is begun."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(_line(row))


def write(file: Path, rows: Iterable[R], key: Callable[[R], Any]) -> None:
    """Write all rows anew, in the order of their keys."""
    text = "".join(_line(row) for row in sorted(rows, key=key))
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _line(row: DataclassInstance) -> str:
    return json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n"
