"""Where a device is: ``ssh://user@host:port``, of which no part can be an option or a word of a shell."""

from __future__ import annotations

import re
from dataclasses import dataclass

from attn_export.errors import UsageError

#: Neither a user nor a host begins with a dash; what else is in them, OpenSSH's own file of settings can name.
_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.+-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)


@dataclass(frozen=True)
class Address:
    """What was typed behind ``--on``.

    Attributes:
        host: a name, a number, or an entry of the user's ``~/.ssh/config``.
        user: empty where OpenSSH is to know it.
        port: None where OpenSSH is to know it.
    """

    host: str
    user: str = ""
    port: int | None = None

    def words(self) -> list[str]:
        """Give it as the words of a command line of ``ssh``, the host last and behind all options."""
        user = ["-l", self.user] if self.user else []
        port = ["-p", str(self.port)] if self.port is not None else []
        return [*user, *port, "--", self.host]

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}{f':{self.port}' if self.port is not None else ''}"


def parse(text: str) -> Address:
    """Read what was typed.

    >>> parse("ssh://pi@board.local:2222")
    Address(host='board.local', user='pi', port=2222)
    >>> str(parse("ssh://[fe80::1]"))
    'ssh://[fe80::1]'

    Raises:
        UsageError: it is no such address.
    """
    found = _ADDRESS.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if not found or (port is not None and not 0 < port < 1 << 16):
        raise UsageError(
            f"--on: expected ssh://user@host or ssh://user@host:port, with a name of ~/.ssh/config as the host if you"
            f" like; got {text[:200]!r}"
        )
    return Address(found["host"].strip("[]"), found["user"] or "", port)
