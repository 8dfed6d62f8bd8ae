"""A run of the main job, as the cache knows it: what it depends on, and what is done where its result is kept.

    what was typed, files that it names, house ──► key ──► entries whose needs are as they were ──► bundle, and account

What a result needs besides is only known once the subject was loaded: the modules of somebody's network, above all.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from attn_export.bundle import writer
from attn_export.bundle.format import MANIFEST, PAGE, REPORT
from attn_export.cache import house, needs, place, store
from attn_export.cache.needs import Needs
from attn_export.cache.store import DamagedError, Entry, GoneError
from attn_export.process import activity
from attn_export.tools import account as accounts
from attn_export.tools import console, typed
from attn_export.tools.account import Account
from attn_export.tools.commands import stored
from attn_export.untrusted import files

if TYPE_CHECKING:
    from attn_export.cache.watch import Watch

#: Parameters of the command that change where a result goes and how it is said, and not what it is.
_NOT_OF_THE_RESULT = {"output", "as_json", "verbose", "quiet", "cache", "store"}
#: Parameters that what the stages make does not depend on: what is done to it later.
_NOT_OF_THE_STAGES = {"mutants", "bench", "warmup", "iterations", "duration", "original", "atol", "rtol"}
#: Bytes and files of inputs that are hashed to find a result.
_MOST, _COUNT = 4_000_000_000, 100_000


class Job:
    """One run of the main job.

    Attributes:
        subject: as it was typed.
        said: whether something is said of the cache that is no result.
    """

    def __init__(self, root: Path, parameters: Mapping[str, Any], described: Mapping[str, Any], *, said: int) -> None:
        self.began = time.time()
        self.root = root
        self._parameters, self._house, self._environment = parameters, described, dict(os.environ)
        self.subject = str(parameters["subject"])
        self.said = said
        self._seen: dict[Path, tuple[int, ...]] = {}
        self._why_not = ""
        self._watch: Watch | None = None
        asked = {name: value for name, value in sorted(parameters.items()) if name not in _NOT_OF_THE_RESULT}
        named = {name: value for name, value in asked.items() if isinstance(value, Path)}
        if self.subject.endswith(".onnx"):
            named["subject"] = Path(self.subject)
        known: dict[str, Any] = {
            "asked": {name: str(value) if isinstance(value, Path) else value for name, value in asked.items()},
            "named": {name: self._content(path) for name, path in named.items()},
            # Modules are found from here, and their places are in the bundle.
            "here": os.path.realpath(".") if ":" in self.subject else "",  # Path.cwd may raise
            "house": described,
        }
        self.key = needs.key(known)
        stages = {name: value for name, value in known["asked"].items() if name not in _NOT_OF_THE_STAGES}
        self.stages_key = needs.key({**known, "asked": stages, "of": "stages"})

    def show_kept(self, output: Path | None, command: tuple[str, ...], *, as_json: bool, noted: bool = False) -> bool:
        """Write the bundle and print the account of an earlier run that was the same; False where none is kept.

        ``noted`` is whether what was typed is noted already.

        Raises:
            WriteError: the bundle cannot be written, exactly as the job itself could not.
        """
        entry = self.found(self.key)
        if entry is None:
            return False
        results = stored.prepared(self._parameters.get("store"))
        try:
            account, before = accounts.read(entry.facts["account"]), tuple(entry.facts["command"])
            target = output or Path(account.name)
            same = before == command and entry.facts["called"] == target.name
            began = float(entry.facts["began"])
        except (KeyError, TypeError, ValueError) as error:
            self.damaged(entry, f"{type(error).__name__}: {error}")
            return False
        try:
            with activity.doing("taking the result from the cache"):
                digest = _as_it_was(entry, target) if same else _under_another_name(entry, target, command)
        except GoneError:
            return False
        except DamagedError as error:
            self.damaged(entry, str(error))
            return False
        store.used(entry)
        stored.keep_bundle(results, "export", target, when=began)
        if not noted:
            typed.note(self.root, self._parameters, self._house)
        if self.said >= 0:
            if account.weights:
                console.say(f"weights: {account.weights}", err=True)
            for warning in account.warnings:
                console.warn(warning)
        accounts.show(account, target, digest, kept=entry.created, as_json=as_json)
        return True

    def damaged(self, entry: Entry, why: str) -> None:
        """Remove an entry that is not what was put in, and say so."""
        store.discard(entry.folder)
        if self.said >= 0:
            console.warn(f"what the cache kept was damaged and is removed, the job is run: {why}")

    def found(self, key: str) -> Entry | None:
        """Find the newest entry of a key whose needs are as they were."""
        if self._why_not or not os.path.lexists(self.root):
            return None
        try:
            if why := place.fault(self.root):
                self._cannot(f"{self.root} {why}")
                return None
            return next((one for one in store.found(self.root, key) if not one.needs.changed()), None)
        except OSError as error:
            self._cannot(f"{self.root} cannot be read: {error.strerror or error}")
            return None

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Watch what is read while the subject is loaded, where that is somebody's code."""
        if self._why_not or not self._is_watched():
            yield
            return
        from attn_export.cache.watch import Watch

        self._watch = Watch(self._environment)
        with self._watch.on():
            yield

    def keep(self, account: Account, bundle: Path, command: tuple[str, ...], called: str) -> None:
        """Put a result into the cache, unless nobody can tell what it depends on."""
        with activity.doing("putting the result into the cache"):
            content = {MANIFEST: bundle / MANIFEST}
            try:
                listed = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["files"]
            except (OSError, ValueError) as error:
                self._cannot(f"{bundle} cannot be read: {error}")
                return
            content |= {name: bundle / name for name in listed}
            facts = {"account": account.to_dict(), "command": list(command), "called": called, "began": self.began}
            if self.put(self.key, content, facts):
                typed.note(self.root, self._parameters, self._house)

    def put(self, key: str, content: Mapping[str, Path], facts: Mapping[str, Any]) -> bool:
        """Put something into the cache with what this run needs; False where that cannot be done, which is said."""
        found = self._why_not or self._needs()
        if isinstance(found, str):
            if self.said > 0:
                console.say(f"not kept in the cache: {found}", err=True)
            return False
        if why := store.put(self.root, key, found, content, facts):
            self._cannot(why)
        return not why

    def _needs(self) -> Needs | str:
        """Say what the result needs; or why that is not known."""
        from attn_export.cache.watch import Watch

        if changed := next((path for path, was in self._seen.items() if _signature(path) != was), None):
            return f"{changed} was changed meanwhile"
        found = (self._watch or Watch()).needs(dict(sys.modules), Path(__file__).parents[2])
        if isinstance(found, str):
            return found
        if self.subject.endswith(".onnx"):
            found = replace(found, files={**found.files, **_external(Path(self.subject))})
        if changed_late := needs.late(map(Path, found.files), self.began):
            return f"{changed_late} was changed meanwhile"
        return found

    def _cannot(self, why: str) -> None:
        """Say, once a run, that there is no cache."""
        if not self._why_not and self.said >= 0:
            console.warn(
                f"the cache is not used: {why}; with --no-cache or {place.FOLDER}={place.OFF} this is not said"
            )
        self._why_not = self._why_not or why

    def _is_watched(self) -> bool:
        """Whether the subject is code that is neither ours nor a graph."""
        from attn_export.mechanisms import MECHANISMS

        entry = MECHANISMS.entries.get(self.subject)
        return not self.subject.endswith(".onnx") and (entry is None or entry.path is None)

    def _content(self, path: Path) -> object:
        """Hash a file, or what lies in a folder and in the folders in it; how it looks is noted, and must stay so."""
        try:
            found = [path] if not path.is_dir() else sorted(_inside(path))
            sizes = [one.stat().st_size for one in found if one.is_file()]
        except OSError as error:
            self._why_not = f"{path} cannot be read: {error.strerror or error}"
            return None
        if sum(sizes) > _MOST or len(found) > _COUNT:
            self._why_not = f"{path} holds more than can be hashed each time"
            return None
        for one in found:
            self._seen[one] = _signature(one)
        return [(str(one), needs.content(one)) for one in found]


def _inside(folder: Path) -> Iterator[Path]:
    for one in folder.iterdir():
        yield from one.iterdir() if one.is_dir() else (one,)


def _signature(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _external(file: Path) -> dict[str, str]:
    """Hash the files in which weights of an ONNX file lie."""
    import onnx

    from attn_export.export.onnx.walk import tensors

    model = onnx.load(file, load_external_data=False)
    names = {entry.value for one in tensors(model) for entry in one.external_data if entry.key == "location"}
    places = sorted(file.absolute().parent / name for name in names)
    return {str(one): needs.content(one) for one in places}


def _as_it_was(entry: Entry, target: Path) -> str:
    """Put the very bundle of an entry at ``target``, unless it lies there, and return its digest."""
    where = writer.place_of(target)
    if not _lies_there(entry, where):
        with writer.writing(target) as folder:
            store.take(entry, folder)
    activity.wrote(where)
    return f"sha256:{entry.files[MANIFEST]}"


def _lies_there(entry: Entry, where: Path) -> bool:
    """Whether a folder holds an entry's files, each as it is there, and nothing else."""
    try:
        paths = {path.relative_to(where).as_posix(): path for path in where.rglob("*")}
        folders = {name for name, path in paths.items() if stat.S_ISDIR(path.lstat().st_mode)}
        around = {above.as_posix() for name in entry.files for above in PurePosixPath(name).parents}
        return (
            paths.keys() - folders == entry.files.keys()
            and folders <= around
            and all(
                stat.S_ISREG(paths[name].lstat().st_mode) and files.sha256(paths[name]) == digest
                for name, digest in entry.files.items()
            )
        )
    except OSError:
        return False


def _under_another_name(entry: Entry, target: Path, command: tuple[str, ...]) -> str:
    """Put an entry's bundle at ``target`` with what was typed now: its manifest and its page are made anew."""
    from attn_export.bundle import reader
    from attn_export.pipeline.report.page import render
    from attn_export.untrusted import fields, plain_json

    facts = plain_json.parse(store.content(entry, MANIFEST).decode("utf-8"))
    report = plain_json.parse(store.content(entry, REPORT).decode("utf-8"))
    with writer.writing(target) as folder:
        store.take(entry, folder, without=frozenset({MANIFEST, PAGE}))
        facts["command"] = list(command)
        writer.write_manifest(folder, facts)
        whole = fields.plain(reader.read_manifest(folder)[0])
        whole["files"].pop(REPORT)  # the job has none yet when it draws the page
        (folder / PAGE).write_text(render(whole, report, target.name), encoding="utf-8")
        writer.write_manifest(folder, facts)
        digest = files.sha256(folder / MANIFEST)
    return f"sha256:{digest}"


def job(parameters: Mapping[str, Any], described: Mapping[str, Any] | None = None) -> Job | None:
    """Prepare a run of the main job for the cache; None where there is to be none.

    Args:
        parameters: every one of the command ``export``, by its name; those to come count as well.
        described: what ``house`` says, where that was asked already.

    Raises:
        UsageError: a variable of the cache cannot be read.
    """
    root = place.folder() if parameters["cache"] else None
    if root is None or place.bound() == 0:
        return None
    return Job(
        root, parameters, described or house.describe(), said=-1 if parameters["quiet"] else parameters["verbose"]
    )
