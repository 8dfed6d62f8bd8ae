"""Where a command may write: to a new place, or over what the same command once wrote; never over anything else.

``fuse thesis.onnx -o thesis.tex`` is a slip of the hand, and the thesis must survive it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Collection
from pathlib import Path

from attn_export.errors import AttnExportError, WriteError
from attn_export.untrusted import files

#: Bytes of the beginning that tell a report.
_HEAD = 64 * files.KB
#: How reports begin, or what only they hold: HTML, Markdown, JUnit XML, SARIF, JSON.
_REPORTS = (
    re.compile(r"(?s)^\s*<!doctype html>.*<title>[^<]* · attn-export</title>"),
    re.compile(r"^### (✅|❌|❓|➖) "),
    re.compile(r'(?s)^<\?xml[^>]*>\s*<testsuites [^>]*>\s*<testsuite name="(parity|latency|budget|check|fusion)'),
    re.compile(r'(?s)^\{\s*"\$schema": "[^"]*sarif[^"]*".*"name": "attn-export"'),
    re.compile(r'(?s)^\{\s*"(runs|schema|contest|created)"'),
)


def file(target: Path, ours: Callable[[Path], bool], kind: str) -> Path:
    """Where a file goes that is to be called ``target``: where a link points, if it is one.

    Args:
        target: as it was typed.
        ours: whether a file that is there already is of the kind that is written.
        kind: that kind, in words with an article.

    Raises:
        WriteError: it is not a file, its folder does not exist, or it is another kind of file.
    """
    place = Path(os.path.realpath(target))
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        if not place.parent.is_dir():
            raise WriteError(
                f"cannot write {target}: the folder {place.parent} does not exist; make it first"
            ) from None
        return place
    except (OSError, ValueError) as error:
        raise WriteError(f"cannot write {target}: {error}") from error
    if stat.S_ISDIR(mode):
        raise WriteError(f"cannot write {target}: it is a folder; give the name of a file in it")
    if not stat.S_ISREG(mode):
        raise WriteError(f"cannot write {target}: it is not a regular file; give the name of one")
    if not ours(place):
        raise WriteError(f"{target} already exists and is not {kind}; nothing was written: choose another name for -o")
    return place


def folder(target: Path, names: Collection[str], kind: str) -> None:
    """Look whether a folder may be written: it is new, empty, or holds nothing but files of these names.

    Raises:
        WriteError: it may not.
    """
    try:
        there = sorted(path.name for path in target.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise WriteError(
            f"cannot write to {target}: {error.strerror or error}; choose another folder for -o"
        ) from error
    if strange := [name for name in there if name not in names]:
        raise WriteError(
            f"{target} holds {strange[0]!r}, which is not part of {kind}; nothing was written: choose another for -o"
        )


def is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX model."""
    from attn_export.export.onnx.read import parse

    try:
        parse(path)
    except AttnExportError:
        return False
    return True


def is_report(path: Path) -> bool:
    """Whether a file begins as a report of ours does."""
    try:
        with path.open("rb") as opened:
            head = opened.read(_HEAD).decode("utf-8", "replace")
    except OSError:
        return False
    return not head or any(pattern.search(head) for pattern in _REPORTS)
