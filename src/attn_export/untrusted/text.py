r"""Text from outside, for people: names of models, nodes and files end up on terminals, in reports and in shells.

What a name may hold that is no text: terminal escapes, marks that turn the direction of what follows, letters that
nobody sees, line ends that forge a line of ours, markup, and words of a shell. Each is shown, none acts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

#: What moves a cursor, recolours a screen, turns the direction, or cannot be seen: Unicode's classes Cc, Cf, Cs, Zl and
#: Zp (a test compares them), and what no XML may hold.
_CONTROL = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
)
_HIDDEN = re.compile(f"[{_CONTROL}]")
_NO_LETTER = re.compile(f"[\t\n{_CONTROL}]")
#: A word that readers of Markdown make a link or a call to somebody, backslash or not; only code is left alone.
_ACTS = re.compile(r"@|://|www\.|mailto:|#\d|GH-\d", re.IGNORECASE)


def printable(text: str) -> str:
    r"""``text`` with every control character shown by its number; line ends and tabs are kept.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _HIDDEN.sub(_shown, text)


def line(text: str) -> str:
    r"""``text`` on one line and printable, its spaces as they are: what may stand in a line of ours.

    >>> line("  two\n lines\x07")
    '  two  lines\\x07'
    """
    return printable(re.sub(r"\r\n|[\t\n]", " ", text))


def one_line(text: str) -> str:
    """``text`` on one line, printable, each run of spaces one: what may stand in a cell or a sentence."""
    return re.sub(" +", " ", line(text)).strip(" ")


def few(names: Iterable[str], shown: int) -> str:
    """List the first of some names, and say how many more there are.

    >>> few(["a", "b", "c"], 2), few(["a", "b"], 2)
    ('a, b and 1 more', 'a, b')
    """
    listed = list(names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more


def first_line(error: BaseException, most: int = 300) -> str:
    r"""Give what a library's error says in its first line, which is enough: the rest is its advice, or its insides.

    >>> first_line(ValueError("  \n no such operator\n  in node 3"))
    'no such operator'
    >>> first_line(ValueError())
    'no message'
    """
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # an error of the user's own may fail to say what it is
        lines = []
    return one_line(lines[0])[:most] if lines else "no message"


def everywhere(value: Any) -> Any:
    r"""``value`` with each of its texts on one line and printable, keys too, whatever lists and mappings they stand in.

    >>> everywhere({"a\n": ["b\x1b", 1, None]})
    {'a ': ['b\\x1b', 1, None]}
    """
    if isinstance(value, str):
        return line(value)
    if isinstance(value, Mapping):
        return {everywhere(key): everywhere(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [everywhere(item) for item in value]
    return value


def word(text: str) -> str:
    """``text``, a path or a name, as one word of a shell's command line, and no option where it begins with a dash.

    >>> word("x; touch PWNED")
    "'x; touch PWNED'"
    >>> word("-rf")
    './-rf'
    """
    return argument(f"./{text}" if text.startswith("-") else text)


def argument(text: str) -> str:
    r"""``text`` as one word of a shell's command line, an option if it is one.

    >>> argument("--fuse"), argument("$(id)\n")
    ('--fuse', "'$(id)\\x0a'")
    """
    return shlex.quote(_NO_LETTER.sub(_shown, text))


def command(*words: str | PurePath) -> str:
    """Give a command line to show. A path among the words is none of its options, whatever its name.

    >>> command("attn-export", "verify", PurePath("-x; y"), "--json")
    "attn-export verify './-x; y' --json"
    """
    return " ".join(word(str(part)) if isinstance(part, PurePath) else argument(part) for part in words)


def markdown(text: str) -> str:
    r"""``text`` that cannot break out of a sentence into markup, a link, or a call to somebody.

    >>> markdown("a_b [x](y)")
    'a\\_b \\[x\\](y)'
    >>> markdown("see https://x.example @all")
    'see `https://x.example` `@all`'
    """
    return " ".join(
        code(part) if _ACTS.search(part) else _escaped(part, first=not index)
        for index, part in enumerate(one_line(text).split(" "))
    )


def cell(text: str) -> str:
    r"""``text`` as ``markdown`` has it, in a cell of a table.

    >>> cell("a|b @a|b")
    'a\\|b `@a\\|b`'
    """
    return markdown(text).replace("|", r"\|")


def _escaped(part: str, *, first: bool) -> str:
    safe = re.sub(r"([\\`*_\[\]<>~#!&$])", r"\\\1", part)
    # What would begin a list, or be a rule, were it the first of a line.
    return re.sub(r"^(\d*)([-+.)=]+)$", r"\1\\\2", safe) if first else safe


def code(text: str) -> str:
    """``text`` as inline code of Markdown, whatever backticks it holds; not for a table, where a bar parts cells.

    >>> code("a`b")
    '`` a`b ``'
    """
    flat = one_line(text)
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def cell_code(text: str) -> str:
    r"""``text`` as inline code in a table's cell, where a bar would begin the next one.

    >>> cell_code("a|b")
    '`a\\|b`'
    """
    return code(text).replace("|", r"\|")


def json_text(dumped: str) -> str:
    r"""JSON, as ``json.dumps`` gives it, that can be written as UTF-8 and looked at: it says the same as before.

    What cannot be seen is written by its number, as JSON does it. Half a surrogate pair, which a name of a file holds
    where it is no UTF-8, and no file of JSON can, is shown as elsewhere.

    >>> json_text('"\u202e \udce9 \u00fc"')
    '"\\u202e \\\\udce9 \xfc"'
    """
    return _HIDDEN.sub(_in_json, dumped)


def _in_json(found: re.Match[str]) -> str:
    number = ord(found[0])
    if 0xD800 <= number < 0xE000:
        return f"\\\\u{number:04x}"
    return f"\\u{number:04x}" if number < 0x10000 else found[0]


def xml(text: str) -> str:
    """``text`` without what XML 1.0 cannot hold at all, even escaped."""
    return printable(text)


def _shown(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
