"""Text from outside, for people: names of models, nodes and files end up on terminals, in tables and in shells."""

from __future__ import annotations

import re
import shlex

#: What moves a cursor, recolours a screen, or turns the direction of what follows; and halves of surrogate pairs.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    r"""``text`` with every control character shown by its number, and line ends kept.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _CONTROL.sub(lambda match: _shown(match[0]), text)


def one_line(text: str) -> str:
    """``text`` on one line, and printable."""
    return printable(" ".join(text.split()))


def word(text: str) -> str:
    """``text`` as one word of a shell's command line, printable, and no option where it begins with a dash.

    >>> word("x; touch PWNED")
    "'x; touch PWNED'"
    >>> word("-rf")
    './-rf'
    """
    safe = one_line(text)
    return shlex.quote(f"./{safe}" if safe.startswith("-") else safe)


def markdown(text: str) -> str:
    r"""``text`` that cannot break out of a table cell or a sentence, or into markup.

    >>> markdown("a|b [x](y)")
    'a\\|b \\[x\\](y)'
    """
    return re.sub(r"([\\`*_|\[\]<>~#!&])", r"\\\1", one_line(text))


def code(text: str) -> str:
    """``text`` as inline code of Markdown, whatever backticks it holds.

    >>> code("a`b")
    '`` a`b ``'
    """
    flat = one_line(text)
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def xml(text: str) -> str:
    """``text`` without what XML 1.0 cannot hold at all, even escaped."""
    return printable(text)


def _shown(letter: str) -> str:
    number = ord(letter)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
