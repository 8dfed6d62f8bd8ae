"""``cache``: where results are kept, what is there, and how all of it is removed."""

from __future__ import annotations

import os
import time

from attn_export.cache import place, store
from attn_export.cache.store import Entry
from attn_export.errors import LoadError, UnknownNameError
from attn_export.tools import console
from attn_export.types import JsonDict
from attn_export.untrusted.text import command

_ACTIONS = ("show", "clear")


def cache(action: str, *, as_json: bool) -> None:
    """Show the cache, or clear it.

    Raises:
        UnknownNameError: there is no such action.
        LoadError: the folder cannot be believed or read.
    """
    if action not in _ACTIONS:
        raise UnknownNameError("action of cache", action, _ACTIONS)
    root = place.folder()
    if root is None:
        if as_json:
            console.emit({"folder": None, "bound_bytes": 0, "bytes": 0, "entries": []})
        else:
            console.say(f"there is no cache: {place.FOLDER} is {place.OFF}")
        return
    try:
        there = os.path.lexists(root)
        if there and (why := place.fault(root)):
            raise LoadError(f"{root} {why}, so it is not used; name another folder by {place.FOLDER}")
        freed = store.clear(root) if there and action == "clear" else 0
        entries = store.listed(root) if there else []
    except OSError as error:
        raise LoadError(f"{root} cannot be read: {error.strerror or error}") from error
    total = sum(entry.size() for entry in entries)
    if as_json:
        rows = [_row(entry) for entry in entries]
        more = {"freed_bytes": freed} if action == "clear" else {}
        console.emit({"folder": str(root), "bound_bytes": place.bound(), "bytes": total, **more, "entries": rows})
        return
    if action == "clear":
        console.say(f"removed {freed / 1e6:.1f} MB from {root}")
        return
    count = f"{len(entries)} result{'' if len(entries) == 1 else 's'}"
    console.say(
        f"{root}: {count}, {total / 1e6:.1f} MB of at most {place.bound() / 1e9:g} GB"
        f" ({place.BOUND}); safe to delete, or: attn-export cache clear"
    )
    for entry in entries:
        row = _row(entry)
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
        console.say(f"  {when}  {row['bytes'] / 1e6:8.1f} MB  {_what(row)}")


def _row(entry: Entry) -> JsonDict:
    typed = entry.facts.get("command")
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.created)),
        "bytes": entry.size(),
        "command": [str(word) for word in typed] if isinstance(typed, list) else [],
        "stages": bool(entry.facts.get("stages")),
    }


def _what(row: JsonDict) -> str:
    words = command("attn-export", *row["command"])
    return f"the stages of {words}" if row["stages"] else words
