"""Entries of the cache: put in whole or not at all, taken out by their hashes, the least used removed first.

    <key>-<digest>/entry.json       what it needs, which files it has, and what whoever put it there says
    <key>-<digest>/<sha256>         each of its files

``key`` is of what was asked for, ``digest`` of ``entry.json``, which has the hash of every file: an entry that is not
what it was is seen, and is none. One that is being put in has another name until it is whole. No locks are needed: two
runs that put the same in make two entries or one, and one that is removed while it is read is a miss.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_export.cache import needs as needed
from attn_export.cache import notes, place
from attn_export.cache.needs import Needs
from attn_export.errors import LoadError
from attn_export.process import activity, folders
from attn_export.untrusted import files, plain_json

INDEX = "entry.json"
#: The version of what entries hold.
SCHEMA = 1
#: Entries of one key: networks whose files come and go, as branches are changed.
_ALIKE = 8
_NAME = re.compile(r"([0-9a-f]{40})-([0-9a-f]{40})")
_HASH = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")
#: Bytes of an index, and of a file that is read at once.
_MOST, _LARGEST = 64 * files.MB, 2 * files.GB
#: What tells programs that make backups that nothing here need be kept (bford.info/cachedir).
_TAG = "CACHEDIR.TAG"
_TAGGED = "Signature: 8a477f597d28d172789f06886806bc55\n# Results of attn-export; this folder may be deleted.\n"


class DamagedError(Exception):
    """An entry is not what was put in. It ends no run: the work is done instead."""


class GoneError(Exception):
    """An entry was removed while it was read; as above."""


@dataclass(frozen=True)
class Entry:
    """One result.

    Attributes:
        folder: where it lies.
        created: when it was put in, in seconds since 1970.
        needs: what must be as it was.
        files: the sha256 of each file, by its name in the result.
        facts: what whoever put it in says.
    """

    folder: Path
    created: float
    needs: Needs
    files: Mapping[str, str]
    facts: Mapping[str, Any]

    def size(self) -> int:
        """Add up the bytes of its files on the disk."""
        return _size(self.folder)


def found(root: Path, key: str) -> Iterator[Entry]:
    """Give the entries of a key, the newest first; those that are damaged are removed instead.

    Raises:
        OSError: the folder cannot be read.
    """
    with os.scandir(root) as scanned:
        names = [entry.name for entry in scanned if entry.name.startswith(f"{key[:40]}-")]
    whole = (_read(root / name) for name in names)
    yield from sorted((entry for entry in whole if entry is not None), key=lambda entry: -entry.created)


def _read(folder: Path) -> Entry | None:
    """Read an index that its folder's name tells the hash of; where it does not, the entry is damaged, and removed."""
    name = _NAME.fullmatch(folder.name)
    if name is None:
        return None
    try:
        content = _opened(folder, INDEX, _MOST)
        if hashlib.sha256(content).hexdigest()[:40] != name[2]:
            raise ValueError("another index")
        plain = plain_json.parse(content.decode("utf-8"))
        entry = Entry(
            folder, float(plain["created"]), needed.read(plain["needs"]), dict(plain["files"]), dict(plain["facts"])
        )
    except GoneError:
        return None
    except (DamagedError, ValueError, KeyError, TypeError, AttributeError):
        discard(folder)
        return None
    return entry if plain.get("schema") == SCHEMA else None


def _opened(folder: Path, name: str, most: int) -> bytes:
    with _source(folder / name) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise DamagedError(f"{folder / name} is too large")
    return bytes(content)


@contextlib.contextmanager
def _source(path: Path) -> Iterator[Any]:
    """Open a file of an entry: no link, and nothing but a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise (DamagedError if path.parent.is_dir() else GoneError)(f"{path} is gone") from error
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamagedError(f"{path} is no file")
        yield file


def take(entry: Entry, target: Path, without: frozenset[str] = frozenset()) -> None:
    """Copy an entry's files into a folder, but for those named in ``without``; each is hashed on the way.

    Copies, and no links: whoever changes the result changes nothing here.

    Raises:
        DamagedError: a file is not what was put in.
        GoneError: the entry was removed meanwhile.
        OSError: the folder cannot be written to.
    """
    for name, wanted in entry.files.items():
        if name in without:
            continue
        copy = _inside(target, name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with _source(_place(entry, wanted)) as source, copy.open("xb", buffering=0) as made:
            while block := _block(source):
                digest.update(block)
                made.write(block)
        if digest.hexdigest() != wanted:
            raise DamagedError(f"{name} in {entry.folder} is not what was put in")


def _inside(target: Path, name: str) -> Path:
    try:
        return files.inside(target, name, LoadError)
    except LoadError as error:
        raise DamagedError(str(error)) from error


def content(entry: Entry, name: str) -> bytes:
    """Read a file of an entry.

    Raises:
        DamagedError: it is not what was put in.
        GoneError: the entry was removed meanwhile.
    """
    wanted = entry.files.get(name, "")
    found = _opened(entry.folder, _place(entry, wanted).name, _LARGEST)
    if hashlib.sha256(found).hexdigest() != wanted:
        raise DamagedError(f"{name} in {entry.folder} is not what was put in")
    return found


def _place(entry: Entry, digest: str) -> Path:
    if not _HASH.fullmatch(digest):
        raise DamagedError(f"{entry.folder} names a file that it cannot have")
    return entry.folder / digest


def _block(source: Any) -> bytes:
    try:
        return bytes(source.read(files.MB))
    except OSError as error:
        raise DamagedError(f"{source.name} cannot be read: {error.strerror}") from error


def used(entry: Entry) -> None:
    """Note that an entry was of use just now: others go first."""
    with contextlib.suppress(OSError):  # what others fill for us may be read-only
        os.utime(entry.folder)


def put(root: Path, key: str, needs: Needs, content: Mapping[str, Path], facts: Mapping[str, Any]) -> str:
    """Put a result in, in place of an older one that needs the same; then remove what was not used for longest.

    Args:
        root: the cache's folder, made where it is not there.
        key: of what was asked for, in hexadecimal.
        needs: what else it depends on.
        content: its files, by their names in the result.
        facts: plain data that is given back with it.

    Returns:
        Why it was not put in; empty where it was.
    """
    most = place.bound()
    try:
        total = sum(path.stat().st_size for path in content.values())
        if total > most:
            return f"it takes {total / 1e9:.1f} GB, and all entries may take {most / 1e9:g} ({place.BOUND})"
        if why := _made(root):
            return why
        sweep(root)
        entry = _put(root, key, needs, content, facts)
        _make_room(root, most, entry)
    except ValueError as error:
        return f"what it needs cannot be written down: {error}"
    except OSError as error:
        return f"{root} cannot be written: {error.strerror or error}"
    return ""


def _made(root: Path) -> str:
    """Make the cache's folder; say why it is not to be used, or nothing."""
    if not os.path.lexists(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            root.mkdir(mode=0o700)
    if why := place.fault(root):
        return f"{root} {why}"
    if not os.path.lexists(root / _TAG):
        (root / _TAG).write_text(_TAGGED, encoding="ascii")
    return ""


def _put(root: Path, key: str, needs: Needs, content: Mapping[str, Path], facts: Mapping[str, Any]) -> Path:
    partial = root / f".{secrets.token_hex(8)}.partial"
    partial.mkdir(mode=0o700)
    lock = folders.claim(partial)
    try:
        with activity.partial(partial):
            hashes = {}
            for name, path in content.items():
                hashes[name] = files.sha256(path)
                if not (partial / hashes[name]).exists():
                    shutil.copyfile(path, partial / hashes[name])
            index = {
                "schema": SCHEMA,
                "created": time.time(),
                "needs": needs.to_dict(),
                "files": hashes,
                "facts": dict(facts),
            }
            dumped = json.dumps(index, allow_nan=False)
            plain_json.parse(dumped)  # a path with bytes that are no letters could not be read again
            written = dumped.encode("ascii")
            (partial / INDEX).write_bytes(written)
            entry = root / f"{key[:40]}-{hashlib.sha256(written).hexdigest()[:40]}"
            older = [one for one in found(root, key) if one.needs == needs]
            partial.rename(entry)
        for one in older:
            discard(one.folder)
        for one in list(found(root, key))[_ALIKE:]:
            discard(one.folder)
        return entry
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _make_room(root: Path, most: int, kept: Path) -> None:
    """Remove those that were not used for longest, until the rest takes no more than ``most`` bytes."""
    by_use = sorted((folder.stat().st_mtime, _size(folder), folder) for folder in _entries(root) if folder != kept)
    total = _size(kept) + sum(size for _, size, _ in by_use)
    for _, size, folder in by_use:
        if total <= most:
            return
        discard(folder)
        total -= size


def _entries(root: Path) -> list[Path]:
    with os.scandir(root) as scanned:
        return [Path(one.path) for one in scanned if _NAME.fullmatch(one.name) and one.is_dir(follow_symlinks=False)]


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as scanned:
        total = sum(one.stat(follow_symlinks=False).st_size for one in scanned)
    return total


def listed(root: Path) -> list[Entry]:
    """Give every entry, the newest first.

    Raises:
        OSError: the folder cannot be read.
    """
    whole = (_read(folder) for folder in _entries(root))
    return sorted((entry for entry in whole if entry is not None), key=lambda entry: -entry.created)


def sweep(root: Path) -> None:
    """Remove what killed runs left half.

    Raises:
        OSError: the folder cannot be read.
    """
    for one in os.listdir(root):  # noqa: PTH208  # names alone
        if _PARTIAL.fullmatch(one) and not (root / one).is_symlink() and folders.abandoned(root / one):
            shutil.rmtree(root / one, ignore_errors=True)


def clear(root: Path) -> int:
    """Remove every entry, and say how many bytes they took; what is not ours is left.

    Raises:
        OSError: the folder cannot be read.
    """
    sweep(root)
    notes.clear(root)
    entries = _entries(root)
    total = sum(map(_size, entries))
    for folder in entries:
        discard(folder)
    return total


def discard(folder: Path) -> None:
    """Remove an entry: under another name first, so that nobody finds half of it."""
    doomed = folder.with_name(f".{secrets.token_hex(8)}.partial")
    with contextlib.suppress(OSError):  # another run was first, or the cache is read-only
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
