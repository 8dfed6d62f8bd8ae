"""What rknn-toolkit2 made of a graph, read from the layers that its build prints and from its file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TITLE, _HEAD = "Network Layer Information Table", "FullName"
_ROW = re.compile(r"(?P<id>\d+)\s+(?P<op>\S+)\s+(?P<dtype>\S+)\s+(?P<target>NPU|CPU|GPU)\s")
_PREFIX = re.compile(r"^D RKNN: \[[^\]]*\] ")
#: The two ends, which copy and compute nothing.
_ENDS = ("InputOperator", "OutputOperator")
#: A list in the description that the file ends with.
_TARGET = re.compile(rb'"target_platform":\s*\[([^\]]*)\]')


@dataclass(frozen=True)
class Layer:
    """A layer of the table: its operator, element type, where it runs, and the node that it was made from."""

    op: str
    dtype: str
    target: str
    node: str


def layers(said: str) -> tuple[Layer, ...]:
    """Read the last table that was printed; the two ends are left out.

    Raises:
        ValueError: there is none.
    """
    _, title, table = said.rpartition(_TITLE)
    if not title:
        raise ValueError("no table of layers was printed")
    lines = [_PREFIX.sub("", line) for line in table.splitlines()]
    head = next((line for line in lines if _HEAD in line), "")
    return tuple(_layers(lines[lines.index(head) + 1 :] if head else [], head.find(_HEAD)))


def _layers(lines: Iterable[str], column: int) -> Iterable[Layer]:
    started = False
    for line in lines:
        match = _ROW.match(line)
        if match is None:
            if started:  # the rule below the last row
                return
            continue
        started = True
        if match["op"] not in _ENDS:
            yield Layer(match["op"], match["dtype"], match["target"], _node(line, column))


def _node(line: str, column: int) -> str:
    """Give the node's name, which stands behind its operator in the last column; long shapes push that to the right."""
    words = line[column:].split() if len(line) > column else []
    return words[-1].partition(":")[2] if words and ":" in words[-1] else ""


def target(file: Path) -> str:
    """Read for which chip a file is; empty where none stands in it, or several do."""
    found = {name.strip(b' "') for names in _TARGET.findall(file.read_bytes()) for name in names.split(b",")}
    return found.pop().decode("ascii", "replace") if len(found) == 1 else ""
