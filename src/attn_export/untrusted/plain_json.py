"""JSON from outside: no key twice, no number beyond what can be computed with, no depth that breaks a reader."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from attn_export.errors import AttnExportError, LoadError
from attn_export.untrusted import files

#: Deeper than any file of ours, and far from Python's own limit.
DEPTH = 64
#: Digits of an integer: those of 2⁶⁴.
DIGITS = 20
MOST = 256 * files.MB
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
#: A string, also one that never ends: else the search for its end would begin again at each quote inside.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)


def read(path: Path, error: type[AttnExportError] = LoadError, most: int = MOST) -> Any:
    """Read a file of JSON.

    Raises:
        error: it is no regular file, is too large, or is no JSON that ``parse`` takes.
    """
    content = files.read(path, most, error)
    try:
        return parse(content.decode("utf-8"))
    except ValueError as reason:  # UnicodeDecodeError is one
        raise error(f"{path} is not JSON that can be read: {reason}") from reason


def parse(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is none, nests deeper than ``DEPTH``, holds a key twice, a number that is not finite, or half of
            a surrogate pair, which no file or terminal takes.

    >>> parse('{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    >>> parse('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    ValueError: the key 'a' stands twice in one object
    """
    if _depth(text) > DEPTH:
        raise ValueError(f"it nests deeper than {DEPTH} levels")
    value = json.loads(
        text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
    )
    if _SURROGATE.search(text):  # a pair is a letter, and a half stays what it is
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def _depth(text: str) -> int:
    """Give the deepest nesting, counted without recursion; brackets inside strings are none.

    >>> _depth('{"a[[": [1, [2]]}')
    3
    """
    deepest = depth = 0
    for run in re.findall(r"[\[{]+|[\]}]+", _STRING.sub("", text)):
        depth += len(run) if run[0] in "[{" else -len(run)
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is not finite")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")
