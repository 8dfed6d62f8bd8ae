"""What the main job says at its end, as plain data: a run prints it, and so does a later one that finds it kept."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export.tools import console
from attn_export.types import JsonDict
from attn_export.untrusted.text import command

if TYPE_CHECKING:
    from attn_export.pipeline.outcome import DeployResult

#: Variables by which ``rich`` is told to draw otherwise.
_DRAWN_OTHERWISE = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@dataclass(frozen=True)
class Account:
    """What is printed.

    Attributes:
        name: the bundle's folder where no other is asked for.
        weights: what the weights are, where they came from a file; empty elsewhere.
        warnings: what was warned of.
        title: of the table.
        headings: of its columns.
        rows: of its cells.
        drawn: the table as it is on a pipe.
        lines: the sentences below it.
        result: the same for machines; its bundle is where it was written first.
    """

    name: str
    weights: str
    warnings: tuple[str, ...]
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    drawn: str
    lines: tuple[str, ...]
    result: JsonDict

    def to_dict(self) -> JsonDict:
        """Give it as plain data."""
        return asdict(self)


def read(plain: JsonDict) -> Account:
    """Make it from plain data again.

    Raises:
        KeyError, TypeError: it is none.
    """
    listed: JsonDict = {name: tuple(plain[name]) for name in ("warnings", "headings", "lines")}
    return Account(**{**plain, **listed, "rows": tuple(map(tuple, plain["rows"]))})


def made(outcome: DeployResult, *, name: str, weights: str, warnings: tuple[str, ...]) -> Account:
    """Draw up the account of a run."""
    from attn_export.tools import summary

    title, headings, rows = summary.stages(outcome)
    return Account(
        name=name,
        weights=weights,
        warnings=warnings,
        title=title,
        headings=headings,
        rows=rows,
        drawn=console.drawn(title, headings, rows),
        lines=tuple(summary.sentences(outcome)),
        result=outcome.to_dict(),
    )


def show(
    account: Account,
    path: Path,
    digest: str,
    *,
    kept: float | None = None,
    stages: float | None = None,
    as_json: bool,
) -> None:
    """Print it.

    Args:
        account: what is printed.
        path: where the bundle lies.
        digest: of the bundle.
        kept: when it was made, in seconds since 1970, if that was not now.
        stages: when the stages were run, if that was not now, and only the rest was.
        as_json: whether it is printed for machines.
    """
    if as_json:
        since = {"kept_since": _utc(kept), "stages_kept_since": _utc(stages)}
        more: dict[str, Any] = {"bundle": str(path), "digest": digest, **since}
        console.emit({**account.result, **more})
        return
    if _as_on_a_pipe():
        console.document(account.drawn)
    else:
        console.show(console.table(account.title, account.headings, account.rows))
    console.say(*account.lines)
    console.say(f"bundle: {path}/   verify it anywhere: {command('attn-export', 'verify', path)}")
    console.say(f"digest: {digest}   check a copy against it: --expect {digest[:14]}…")
    if kept is not None:
        console.say(f"from the cache: made and measured on {_since(kept)}; --no-cache does it again")
    if stages is not None:
        console.say(f"from the cache: stages and cases, proven on {_since(stages)}; --no-cache does all again")


def _utc(when: float | None) -> str | None:
    return None if when is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def _since(when: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(when))}, {age(time.time() - when)}"


def age(seconds: float) -> str:
    """Say how long ago something was.

    >>> age(7300), age(90), age(3)
    ('2 hours ago', '1 minute ago', 'less than a minute ago')
    """
    for size, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds / size)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "less than a minute ago"


def _as_on_a_pipe() -> bool:
    """Whether the table is drawn as ``Account.drawn`` has it: ``rich`` need not be loaded for that."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    return not sys.stdout.isatty() and encoding == "utf8" and not any(map(os.environ.get, _DRAWN_OTHERWISE))
