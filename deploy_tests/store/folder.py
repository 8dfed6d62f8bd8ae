"""The files of a store: written whole or not at all, one writer at a time, and read only if they are what they say.

    DIR/runs/ab/ab34….json      one run; its name is the sha256 of its bytes

So two stores are merged by copying one over the other, and nothing that was altered, cut short or put there by somebody
else is taken for a run: it is named and passed over. No name or path inside a file is ever used to find or write one.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from attn_export.deploy_tests.store import record as records
from attn_export.deploy_tests.store.record import Record
from attn_export.errors import LoadError, WriteError
from attn_export.process import folders
from attn_export.untrusted import files

RUNS = "runs"
#: Bytes of one run: a hundred times those of a report with all of its samples.
MOST = 16 * files.MB
#: Files that are looked at: more runs than anybody makes, fewer than fill a memory.
COUNT = 1_000_000
#: Seconds to wait for another writer.
PATIENCE = 30.0

_FOLDER = re.compile("[0-9a-f]{2}")
_NAME = re.compile(r"([0-9a-f]{64})\.json")
_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")


@dataclass(frozen=True)
class Found:
    """A file among the runs of a store.

    Attributes:
        name: relative to the store.
        state: size, time and place on the disk, by which a change of it is seen.
        fault: why it cannot be a run, before it was read; empty where it can.
    """

    name: str
    state: tuple[int, int, int]
    fault: str = ""


def ready(root: Path) -> Path:
    """Make the folder, unless it is there: where runs can be put.

    Raises:
        WriteError: it cannot be made, or holds something else than a store.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        place = root.resolve()
        # Another writer may be making it at this moment: its folder is none of the others.
        others = [name for name in sorted(os.listdir(place)) if name[0] != "." and name != RUNS]  # noqa: PTH208
        if others and not (place / RUNS).is_dir():
            raise WriteError(
                f"--store {root}: expected a new or empty folder, or a store (with {RUNS}/), got one that holds"
                f" {others[0]!r}; nothing was written: choose another folder"
            )
        _folder(place / RUNS)
    except OSError as error:
        raise _unwritable(root, error) from error
    return place


def put(root: Path, run: Record) -> str:
    """Put a run into a store, unless the same is there, and return its name.

    Raises:
        WriteError: it cannot be written, is too large, or another program keeps the store locked.
    """
    content = run.content()
    if len(content) > MOST:
        raise WriteError(f"--store {root}: expected a report of at most {MOST >> 20} MB, got {len(content) >> 20} MB")
    digest = hashlib.sha256(content).hexdigest()
    place = ready(root) / RUNS
    target = place / digest[:2] / f"{digest}.json"
    try:
        with _alone(place):
            _folder(target.parent)
            if not _holds(target, content):
                _write(place / f".{secrets.token_hex(8)}.partial", target, content)
    except OSError as error:
        raise _unwritable(root, error) from error
    return f"{RUNS}/{digest[:2]}/{target.name}"


def listed(root: Path) -> Iterator[Found]:
    """Give every file among the runs, in the order of their names; what is no run has its fault.

    Raises:
        LoadError: the folder cannot be read, or is no store.
    """
    if not (root / RUNS).is_dir():
        raise LoadError(f"{root} is not a store (no {RUNS}/); put a run into it with --store, or name another folder")
    count = 0
    try:
        for folder in sorted(os.listdir(root / RUNS)):  # noqa: PTH208  # names alone
            place = root / RUNS / folder
            if _PARTIAL.fullmatch(folder):
                continue
            if not _FOLDER.fullmatch(folder) or not stat.S_ISDIR(place.lstat().st_mode):
                yield Found(f"{RUNS}/{folder}", (0, 0, 0), "is no folder of runs")
                continue
            for name in sorted(os.listdir(place)):  # noqa: PTH208
                count += 1
                if count > COUNT:
                    raise LoadError(f"{root}: expected at most {COUNT:,} runs, got more; keep them in two stores")
                yield _found(place / name, f"{RUNS}/{folder}/{name}")
    except OSError as error:
        raise LoadError(f"{root} cannot be read: {error.strerror or error}") from error


def read(root: Path, name: str) -> Record:
    """Read one run that ``listed`` gave.

    Raises:
        ValueError: it is none: the message follows its name.
    """
    content = _content(root / name)
    if hashlib.sha256(content).hexdigest() != Path(name).stem:
        raise ValueError("is not what it was: its sha256 is not its name")
    return records.parse(content)


def _found(path: Path, name: str) -> Found:
    seen = path.lstat()
    state = (seen.st_size, seen.st_mtime_ns, seen.st_ino)
    digest = _NAME.fullmatch(path.name)
    if digest is None or digest[1][:2] != path.parent.name:
        return Found(name, state, "is not called as a run is")
    if not stat.S_ISREG(seen.st_mode):
        return Found(name, state, "is no regular file")
    if seen.st_size > MOST:
        return Found(name, state, f"has {seen.st_size >> 20} MB; at most {MOST >> 20} MB are read")
    return Found(name, state)


def _content(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is no regular file")
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"has more than {MOST >> 20} MB")
    return content


def _holds(target: Path, content: bytes) -> bool:
    try:
        return _content(target) == content
    except ValueError:
        return False  # not there, or damaged: the whole one takes its place


def _write(partial: Path, target: Path, content: bytes) -> None:
    """Bring the bytes to the disk before the name: a power cut or a kill leaves no half of a run."""
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the lock of the runs; what killed writers left is removed, as no other is writing now.

    Raises:
        WriteError: another program keeps it.
    """
    lock = folders.claim_within(place, PATIENCE)
    if lock is None:
        raise WriteError(f"another program keeps {place} locked; wait for it, and put the run there again")
    try:
        for name in os.listdir(place):  # noqa: PTH208
            if _PARTIAL.fullmatch(name) and stat.S_ISREG((place / name).lstat().st_mode):
                (place / name).unlink()
        yield
    finally:
        os.close(lock)


def _folder(place: Path) -> None:
    """Make a folder of the store; what is called so and is none, such as a link that leads elsewhere, is refused."""
    place.mkdir(exist_ok=True)
    if not stat.S_ISDIR(place.lstat().st_mode):
        raise WriteError(f"{place} is no folder of a store but a link; nothing was written: move it elsewhere")


def _unwritable(root: Path, error: OSError) -> WriteError:
    return WriteError(f"--store {root} cannot be written: {error.strerror or error}; choose another folder")
