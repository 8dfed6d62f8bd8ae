"""Where the cache lies, how much it may take, and whether what lies there can be ours alone.

Whoever can write to the cache can plant a model in somebody's bundle. So nothing in it is believed, and nothing is put
there, unless only this user can have written to it, as OpenSSH asks of the folder of keys.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from attn_export.errors import UsageError

FOLDER, BOUND = "ATTN_EXPORT_CACHE_DIR", "ATTN_EXPORT_CACHE_GB"
OFF = "off"
#: Gigabytes.
_USUAL = 2.0
_GB = 1e9
#: Links that are followed to the folder.
_LINKS = 40


def of_user() -> Path:
    """Name this user's folder for what can be made again, by the XDG rules.

    ``XDG_CACHE_HOME`` does not count where it is no absolute path.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "attn-export"


def folder() -> Path | None:
    """Name the folder, whether it is there or not; None where there is to be no cache.

    Raises:
        UsageError: the variable for it names none.
    """
    asked = os.environ.get(FOLDER, "")
    if asked == OFF:
        return None
    if asked and not Path(asked).is_absolute():
        raise UsageError(f"{FOLDER}: expected an absolute path, or {OFF}; got {asked[:200]!r}")
    return Path(asked) if asked else of_user() / "results"


def bound() -> int:
    """Say how many bytes all entries may take.

    Raises:
        UsageError: the variable for it is no number.
    """
    asked = os.environ.get(BOUND, "")
    try:
        wanted = float(asked or _USUAL)
    except ValueError:
        wanted = -1.0
    if not 0 <= wanted < 1e9:
        raise UsageError(f"{BOUND}: expected a number of gigabytes, such as 2; got {asked[:80]!r}")
    return int(wanted * _GB)


def fault(place: Path) -> str:
    """Say why what lies at ``place`` cannot be believed, in words that follow its name; empty where it can.

    The folder itself is no link and belongs to this user, who alone may write to it. Nobody but this user and the
    administrator can put another in its place.

    Raises:
        OSError: it cannot be looked at; it is not there, above all.
    """
    found = place.lstat()
    if stat.S_ISLNK(found.st_mode):
        return "is a link"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid != os.geteuid():
        return "belongs to another user"
    if _others_write(found):
        return "may be written to by others"
    for above in _on_the_way(place):
        found = above.stat()
        if found.st_uid not in (0, os.geteuid()):
            return f"lies below {above}, which belongs to another user"
        if _others_write(found) and not found.st_mode & stat.S_ISVTX:
            return f"lies below {above}, which others may write to"
    return ""


def _others_write(found: os.stat_result) -> bool:
    """Whether more than its owner may write to a folder; a group of which nobody else is a member does not count."""
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _own_group(found.st_gid)


def _own_group(number: int) -> bool:
    """Whether a group is the one that systems make for each user, with nobody else in it."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return user.pw_gid == number and group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}


def _on_the_way(place: Path) -> Iterator[Path]:
    """Give every folder whose entries decide where a path leads: those above it, and those above links among them."""
    at, left, links = Path("/"), list(reversed(place.absolute().parts[1:])), 0
    while left:
        yield at
        name = left.pop()
        if name == "..":
            at = at.parent
            continue
        step = at / name
        if not step.is_symlink():
            at = step
            continue
        links += 1
        if links > _LINKS:
            raise OSError(f"{place} is reached through more than {_LINKS} links")
        target = step.readlink()
        if target.is_absolute():
            at, target = Path("/"), target.relative_to("/")
        left += reversed(target.parts)
