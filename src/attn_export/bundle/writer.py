"""Write a bundle: whole or not at all, one writer at a time, and over nothing that is not an unaltered bundle of ours.

The new one grows in ``.NAME.xxxxxxxx.partial`` beside its place, locked by the kernel (``process.folders``), so that
other writers see that it lives, from any container, and the next one sweeps it once it is dead. What two writers must
not do at once happens under a lock of the folder around them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attn_export import __version__
from attn_export.bundle import versions
from attn_export.bundle.format import CASES, MANIFEST, PAGE, REPORT, SCHEMA_VERSION, SIGNATURE, Bundle
from attn_export.errors import BundleError, WriteError
from attn_export.process import activity, folders
from attn_export.untrusted import files, text

#: Seconds that another program may keep the folder around a bundle locked.
PATIENCE = 10.0
#: Bytes of a name, so that what is put around it still fits into the 255 that a file system takes.
_LONGEST = 200
_WAY_OUT = "choose another place with -o"
#: Failures of a disk, whatever was being written to it.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``manifest.json`` last: with the schema, the names of the cases, and the hash of every other file."""
    from attn_export.bundle.cases import case_names

    found = sorted(p for p in folder.rglob("*") if p.is_file())
    names = {p.relative_to(folder).as_posix(): p for p in found}
    hashes = {name: files.sha256(path) for name, path in names.items() if name not in (MANIFEST, SIGNATURE)}
    own = {versions.KEY: SCHEMA_VERSION, "attn_export": __version__, "cases": case_names(folder / CASES)}
    rest = {name: value for name, value in content.items() if name not in (*own, "files")}
    write_json(folder / MANIFEST, {**own, **rest, "files": hashes})


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that a person can read; NaN is an error, since JSON has none."""
    dumped = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    file.write_text(text.json_text(dumped) + "\n", encoding="utf-8")


def may_write(target: Path) -> Path:
    """Where a bundle for ``target`` will lie, behind all links; to be asked before any long work.

    Raises:
        WriteError: something else is there, or it is a folder that is never replaced.
    """
    place = place_of(target)
    _replaceable(place)
    return place


def place_of(target: Path) -> Path:
    """Where ``target`` lies, behind all links, whatever is there.

    Raises:
        WriteError: it is a folder that is never replaced.
    """
    place = _behind_links(target)
    _never(place)
    return place


@contextlib.contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it becomes ``target`` in one step.

    An older bundle at ``target`` is there, whole, until that step. Whatever happens before it, even a kill, leaves
    ``target`` as it was.

    Raises:
        WriteError: ``target`` is something else than an unaltered bundle, another run is writing it, or the folder
            around it cannot be written to.
    """
    place = may_write(target)
    with _growing(place, "bundle") as partial:
        yield partial
        _flush(partial)
        _replaceable(place)  # said before anything is moved, where it can be
        with _alone(place.parent):
            _put(partial, place)
        activity.wrote(place)


@contextlib.contextmanager
def once(target: Path, what: str) -> Iterator[Path]:
    """As ``writing``, for a folder that must not be there yet.

    Raises:
        WriteError: it is, another run is writing it, or it cannot be written.
    """
    place = _behind_links(target)
    _absent(place, what)
    with _growing(place, what) as partial:
        yield partial
        _flush(partial)
        with _alone(place.parent):
            _absent(place, what)
            partial.rename(place)
            _sync(place.parent)
        activity.wrote(place)


@contextlib.contextmanager
def _growing(place: Path, what: str) -> Iterator[Path]:
    """Make a folder of this run, and the disk's failures in words.

    Raises:
        WriteError: another run is writing there, or nobody can.
    """
    partial: Path | None = None
    with contextlib.ExitStack() as stack:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(_claimed(place))
            stack.enter_context(activity.partial(partial))
            yield partial
        except OSError as error:
            if error.errno in _DISK or partial is None or _is_about(error, place):
                why = error.strerror or str(error)
                raise WriteError(f"cannot write the {what} {place}: {why}; free some space or {_WAY_OUT}") from error
            raise


def _absent(place: Path, what: str) -> None:
    if os.path.lexists(place):
        raise WriteError(f"{place} exists; a {what} is written once: choose another folder")


@contextlib.contextmanager
def rewriting(whole: Bundle) -> Iterator[Path]:
    """As ``writing`` with a copy of a bundle in the folder, without its manifest: to add what was found out later.

    Raises:
        BundleError: it is not any more what was read.
        WriteError: as ``writing``; or it is signed, and no signature would hold for what it becomes.
    """
    from attn_export.bundle import reader

    if os.path.lexists(whole.signature):
        raise WriteError(f"{whole.path} is signed, so nothing is added to it; copy it without {SIGNATURE} first")
    with writing(whole.path) as folder:
        for name in whole.manifest["files"]:
            if name not in (REPORT, PAGE):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(whole.path / name, folder / name)
        reader.unchanged(whole)
        yield folder


def _behind_links(target: Path) -> Path:
    """Where ``target`` leads; nothing need be there."""
    try:
        place = Path(os.path.realpath(target))
    except (OSError, ValueError) as error:  # the working directory is gone, or there is a NUL byte in the name
        raise WriteError(f"cannot write to {str(target)!r}: {error}; {_WAY_OUT}") from error
    if os.path.islink(place):  # noqa: PTH114  # Path's raises where a name is too long
        raise WriteError(f"{target} is a link that leads to itself; {_WAY_OUT}")
    return place


def _never(place: Path) -> None:
    """Refuse the folders that are nobody's bundle, whatever is in them.

    Raises:
        WriteError: it is the working directory, one around it, or the home folder.
    """
    home = "your home folder"
    kept = {Path("/"): "the root of the file system"}
    with contextlib.suppress(OSError):
        here = Path(os.path.realpath(Path.cwd()))
        kept = {**dict.fromkeys(here.parents, "around the working directory"), **kept, here: "the working directory"}
    homes = [os.environ.get("HOME", "")]
    with contextlib.suppress(KeyError):
        homes.append(pwd.getpwuid(os.getuid()).pw_dir)
    kept |= {Path(os.path.realpath(folder)): home for folder in homes if folder}
    own = files.identity(place)
    for folder, what in kept.items():
        if place == folder or (own is not None and own == files.identity(folder)):
            raise WriteError(f"{place} is {what}, and is never replaced by a bundle; name a new folder with -o")


def _replaceable(place: Path, called: Path | None = None) -> None:
    """Refuse to write over what is not ours, or is no longer what we wrote.

    Raises:
        WriteError: it is a file, or a folder that is not empty and no unaltered bundle of this schema.
    """
    try:
        if not os.path.lexists(place) or (place.is_dir() and not any(place.iterdir())):
            return
    except OSError as error:
        raise WriteError(f"{place} cannot be looked into: {error.strerror or error}; {_WAY_OUT}") from error
    name = called or place
    if not place.is_dir():
        raise WriteError(f"{name} is a file; {_WAY_OUT}")
    if not os.path.lexists(place / MANIFEST):
        raise WriteError(f"{name} exists and is not a bundle; {_WAY_OUT}")
    from attn_export.bundle import reader  # which loads NumPy; most places are empty

    try:
        reader.whole_folder(place)
    except BundleError as error:
        why = str(error).replace(str(place), str(name))
        raise WriteError(f"{name} exists and is not replaced ({why}); remove it yourself, or {_WAY_OUT}") from error


@contextlib.contextmanager
def _claimed(place: Path) -> Iterator[Path]:
    """Make a folder of this run for what will be at ``place``; removed at the end, if it is still there.

    Raises:
        WriteError: another run has one.
        OSError: there can be none.
    """
    with _alone(place.parent):
        _recover(place)
        for other in _left(place, "partial"):
            if not folders.abandoned(other):
                raise WriteError(f"another run is writing {place}; wait for it, or {_WAY_OUT}")
            shutil.rmtree(other, ignore_errors=True)
        partial = place.with_name(f".{_stem(place)}.{secrets.token_hex(4)}.partial")
        partial.mkdir()
        lock = folders.claim(partial)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _stem(place: Path) -> str:
    name = os.fsencode(place.name)
    if len(name) <= _LONGEST:
        return place.name
    return f"{name[:100].decode('utf-8', 'ignore')}-{hashlib.sha256(name).hexdigest()[:16]}"


def _left(place: Path, kind: str) -> list[Path]:
    """List the folders of this kind that runs for this very place have, or have left; never those of ``NAME.other``."""
    ours = re.compile(rf"\.{re.escape(_stem(place))}\.[0-9a-f]{{8}}\.{kind}")
    return sorted(path for path in place.parent.iterdir() if ours.fullmatch(path.name) and not path.is_symlink())


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder for a moment.

    Raises:
        WriteError: another program keeps it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # noqa: PERF203  # nothing here is about speed
                if time.monotonic() > until:
                    raise WriteError(f"another program keeps {folder} locked; wait for it, or {_WAY_OUT}") from None
                time.sleep(0.01)
            except OSError:  # a file system without locks
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)


def _put(partial: Path, place: Path) -> None:
    """Put a finished bundle in its place; what is there at that moment must be what may be replaced.

    It is looked at once it has changed places with the new one: nobody has a hand in it between look and step. Until
    then it lies under a name that nobody sweeps unseen, so that a kill here takes nothing with it.
    """
    ready = partial.with_suffix(".new")
    new = files.identity(partial)
    partial.rename(ready)
    try:
        if not os.path.lexists(place):
            ready.rename(place)
        elif _exchange(ready, place):
            try:
                _replaceable(ready, called=place)
            except WriteError:
                if not _exchange(ready, place):
                    raise WriteError(f"{place} was changed meanwhile; what was there lies at {ready}") from None
                raise
            _discard(ready)
        else:  # where the file system cannot exchange, the gap is these two lines; ``_recover`` closes it
            _replaceable(place)
            aside = partial.with_suffix(".old")
            place.rename(aside)
            ready.rename(place)
            _discard(aside)
    except (OSError, WriteError):
        if files.identity(ready) == new:  # and not what changed places with it
            ready.rename(partial)
        raise
    _sync(place.parent)


def _recover(place: Path) -> None:
    """End what a run left that died while it put a bundle in its place; what is not ours stays where it is."""
    if (aside := _left(place, "old")) and not os.path.lexists(place):
        aside.pop().rename(place)
    for left in (*_left(place, "old"), *_left(place, "new")):
        with contextlib.suppress(WriteError):
            _replaceable(left)
            _discard(left)


def _discard(folder: Path) -> None:
    """Remove what was looked at; a kill in the midst of it leaves what the next run sweeps without a look."""
    doomed = folder.with_suffix(".partial")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Bring a folder to the disk, so that a power cut after the rename cannot leave empty files behind it."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(PermissionError):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically (Linux ``renameat2`` with RENAME_EXCHANGE); False where that is not to be had."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return int(call(here, os.fsencode(one), here, os.fsencode(other), exchange)) == 0


def _is_about(error: OSError, place: Path) -> bool:
    """Whether a failure names a file of the bundle or of what becomes it, or the folder around it."""
    if not isinstance(error.filename, str) or not Path(error.filename).is_relative_to(place.parent):
        return False
    first = Path(error.filename).relative_to(place.parent).parts[:1]
    return not first or first[0] == place.name or first[0].startswith(f".{_stem(place)}.")
