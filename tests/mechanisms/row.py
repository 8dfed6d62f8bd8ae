"""Which reference vector belongs to which entry, and with which constructor arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One reference vector: the entry, its constructor's arguments, and the class if it is a part of the entry."""

    entry: str
    arguments: dict[str, Any] = field(default_factory=dict)
    build: str = ""  #: a class or function of the entry's module, where the vector is of a part
    beside: dict[str, Any] = field(default_factory=dict)  #: further arguments, which the names in a file do not tell
    inputs: tuple[int, ...] | None = None  #: which of the file's inputs our forward takes, where not all
