"""What LiteRT's converter says when it refuses, as one sentence that names the operator and its line."""

from __future__ import annotations

import re

from attn_export.untrusted.text import first_line, one_line

#: As the compiler of graphs complains: ``file.py:12:0: error: 'tfl.pad' op failed to verify …``.
_COMPLAINT = re.compile(r"(?:^|[\s(\"])([^\s(\"]+\.py):(\d+):\d+(?:\)|\"| to [^:]+)*: error: (.+)")
#: The same where the place is no line of Python.
_ELSEWHERE = re.compile(r"error: (.+)")


def reason(error: BaseException, said: str) -> str:
    r"""Find what was complained of in the error, then in what was printed; else take the error's first line.

    >>> reason(RuntimeError("Failed:\nnet.py:7:0: error: 'tfl.pad' op failed to verify that"), "")
    "'tfl.pad' op failed to verify that (net.py:7)"
    """
    for text in (str(error), said):
        if found := _COMPLAINT.search(text):
            return f"{one_line(found[3])[:300]} ({found[1]}:{found[2]})"
        if found := _ELSEWHERE.search(text):
            return one_line(found[1])[:300]
    return first_line(error)
