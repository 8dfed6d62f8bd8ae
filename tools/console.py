"""What people read on a terminal, and programs on a pipe: everything that is printed goes through here.

Names come from outside, with whatever is in them. A line is said on one line, with nothing in it that acts; JSON is
ASCII, so that nothing in it does; a table's cells are text and no markup.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export.untrusted import text

if TYPE_CHECKING:  # a command that prints no table need not load what draws them
    from rich.table import Table
    from rich.text import Text

#: Of every object that ``--json`` prints.
SCHEMA_VERSION = 1
#: Names a file that gets the JSON object of a run as well, printed or not; set by whoever started it from elsewhere.
RESULT = "ATTN_EXPORT_RESULT"
#: Columns of a table where there is no terminal that has its own.
WIDE = 140


class _Emitted:
    """The stream that got its JSON value."""

    on: object = None


def say(*lines: str, err: bool = False, bold: bool = False) -> None:
    """Print lines, each on a line of its own whatever it holds."""
    stream = sys.stderr if err else sys.stdout
    for line in lines:
        said = _encodable(text.line(line), err=err)
        print(f"\x1b[1m{said}\x1b[0m" if bold and stream.isatty() else said, file=stream, flush=True)


def warn(line: str) -> None:
    """Say on stderr what the user should know although it is no failure."""
    say(f"warning: {line}", err=True)


def emit(content: Mapping[str, Any]) -> None:
    """Print one JSON object, the only one of the run, with the version of what its keys mean."""
    print(json.dumps({"schema_version": SCHEMA_VERSION, **content}), flush=True)
    _Emitted.on = sys.stdout


def result(content: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the JSON object where that was asked for, and put it into the file that whoever started the run named."""
    if file := os.environ.get(RESULT):
        partial = Path(f"{file}.partial")
        partial.write_text(json.dumps(content), encoding="ascii")
        partial.replace(file)
    if as_json:
        emit(content)


def emitted_elsewhere() -> None:
    """Note that another process, which writes to the same standard output, has printed the one JSON object."""
    _Emitted.on = sys.stdout


def emitted() -> bool:
    """Whether standard output has its JSON value: then a gate that fails is in it, and in the exit code."""
    return _Emitted.on is sys.stdout


def document(content: str) -> None:
    """Print a whole document, such as a report, as it is."""
    print(_encodable(text.printable(content), err=False), flush=True)


def show(table: Table) -> None:
    """Print a table whose cells are ``cell``s."""
    from rich.console import Console

    Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE).print(table)


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a table of text: the first column to the left, the others to the right."""
    from rich.table import Table

    made = Table(title=cell(title), title_justify="left")
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="right" if index else "left")
    for row in rows:
        made.add_row(*map(cell, row))
    return made


def drawn(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Draw such a table as it is on a pipe."""
    from rich.console import Console

    page = io.StringIO()
    Console(file=page, highlight=False, markup=False, emoji=False, width=WIDE, force_terminal=False).print(
        table(title, headings, rows)
    )
    return page.getvalue().removesuffix("\n")


def cell(content: str) -> Text:
    """Make a table's cell, or title: text, with no markup, no emoji and no escapes."""
    from rich.text import Text

    return Text(text.line(content))


def _encodable(content: str, *, err: bool) -> str:
    """``content`` with what the stream's encoding lacks written by its number."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    return content.encode(encoding, "backslashreplace").decode(encoding)
