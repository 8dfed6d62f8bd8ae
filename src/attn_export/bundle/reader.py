"""Read a bundle: nothing in it is believed before all of it was looked at, and it is of one writing entirely."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from attn_export.bundle import cases as stored
from attn_export.bundle import figures
from attn_export.bundle import manifest as manifests
from attn_export.bundle.format import (
    CASES,
    DOUBLE_DB,
    MANIFEST,
    REPORT,
    SIGNATURE,
    VARIES,
    Artifact,
    Bundle,
    Case,
    Selection,
)
from attn_export.bundle.manifest import ManifestRecord
from attn_export.errors import AttnExportError, BundleError, UsageError
from attn_export.untrusted import fields, files, plain_json

#: Bytes of a manifest, a report, and any file of a bundle.
MOST_JSON, MOST_FILE = 64 * files.MB, 64 * files.GB
#: Entries that are looked at in a folder that may be anything.
_ENTRIES = 100_000
#: A reader that meets a writer begins again, so often; a write in between takes milliseconds.
_TRIES, _PAUSE = 50, 0.005


def read(path: Path) -> Bundle:
    """Read and validate a bundle.

    Raises:
        BundleError: it is not whole, was altered, has a schema this version does not know, or claims what no honest
            bundle does.
    """
    for left in reversed(range(_TRIES)):
        with _held(path) as identity:
            try:
                whole = _read(path, identity)
            except BundleError:
                if not left or files.identity(path) == identity:
                    raise
            else:
                if files.identity(path) == identity:
                    return whole
        time.sleep(_PAUSE)
    raise BundleError(f"{path} is being written again and again; read it once that has ended")


@contextlib.contextmanager
def _held(path: Path) -> Iterator[tuple[int, int]]:
    """Hold the identity of a folder, which no other folder can take on while the block runs."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, ValueError) as error:
        raise _no_bundle(path, error) from error
    try:
        found = os.fstat(descriptor)
        yield found.st_dev, found.st_ino
    finally:
        os.close(descriptor)


def _no_bundle(path: Path, error: OSError | ValueError) -> BundleError:
    if isinstance(error, FileNotFoundError):
        return BundleError(f"{path} is not a bundle: it does not exist")
    if isinstance(error, NotADirectoryError):
        return BundleError(f"{path} is not a bundle: expected a folder, got a file")
    return BundleError(f"{path} cannot be read: {(error.strerror if isinstance(error, OSError) else '') or error}")


def _read(path: Path, identity: tuple[int, int]) -> Bundle:
    facts, digest = whole_folder(path)
    cases = cases_of(path / CASES, facts)
    stored.fit(path / CASES, cases, facts.cases, facts.inputs, facts.outputs)
    return Bundle(
        path,
        facts.subject.name,
        facts.inputs,
        facts.outputs,
        facts.dynamic_dims,
        _with_meaning(path, facts, cases),
        cases,
        fields.plain(facts),
        digest,
        identity,
    )


def cases_of(file: Path, facts: ManifestRecord) -> tuple[Case, ...]:
    """Read the cases, with what the manifest says of their outputs.

    Raises:
        BundleError: they are damaged.
    """
    selections = tuple(Selection(one.node, one.rows, one.ordered) for one in facts.selections)
    return tuple(replace(case, selections=selections) for case in stored.read_cases(file))


def artifacts(path: Path, facts: ManifestRecord) -> tuple[Artifact, ...]:
    """Give the artifacts that a manifest lists, in the folder at ``path``."""
    return tuple(
        Artifact(
            one.name,
            one.kind,
            tuple(path / name for name in one.files),
            one.precision,
            one.tolerance.normalized_limit,
            one.tolerance.snr_db_limit,
            one.target,
            one.produced_by,
            one.narrowed_dims,
        )
        for one in facts.artifacts
    )


def _with_meaning(path: Path, facts: ManifestRecord, cases: tuple[Case, ...]) -> tuple[Artifact, ...]:
    """Give the artifacts, those in int8 with what their graph means on some of the cases.

    Raises:
        BundleError: it is damaged, or of other cases.
    """
    found = []
    inputs = {case.name: case for case in cases}
    for one, record in zip(artifacts(path, facts), facts.artifacts, strict=True):
        own = record.quantisation
        if own is None:
            found.append(one)
            continue
        file = path / own.meaning
        meaning = []
        for case in stored.read_cases(file):
            if (known := inputs.get(case.name)) is None or case.inputs:
                raise BundleError(f"{file}: {case.name[:80]!r} is no case of the bundle; write the bundle again")
            meaning.append(replace(case, inputs=known.inputs, selections=known.selections))
        stored.fit(file, meaning, [case.name for case in meaning], facts.inputs, facts.outputs)
        had = min((row.median_db for row in own.figures if row.share >= VARIES), default=None)
        limits = [limit for limit in (own.limit_db, None if had is None else had - DOUBLE_DB) if limit is not None]
        found.append(
            replace(one, meaning=tuple(meaning), centred_db_limit=max(limits, default=None), asked_db=own.limit_db)
        )
    return tuple(found)


def whole_folder(path: Path) -> tuple[ManifestRecord, str]:
    """Read the manifest and its digest, of a folder in which every file is there, unaltered, and no other.

    Raises:
        BundleError: it is not so.
    """
    facts, digest = read_manifest(path)
    present = entries(path, set(facts.files))
    for name, wanted in facts.files.items():
        if name not in present:
            raise BundleError(f"{path}: {name} is missing; copy the bundle again")
        files.regular(path / name, MOST_FILE, BundleError)
        try:
            came = files.sha256(path / name)
        except OSError as error:
            raise BundleError(f"{path / name} cannot be read: {error.strerror or error}") from error
        if came != wanted:
            raise BundleError(f"{path / name} was altered: sha256 is {came[:12]}…, the manifest says {wanted[:12]}…")
    return facts, digest


def read_manifest(path: Path) -> tuple[ManifestRecord, str]:
    """Read the manifest of the bundle at ``path`` and its digest; no other file is looked at.

    Raises:
        BundleError: there is none, or it is not what it must be.
    """
    file = path / MANIFEST
    if not os.path.lexists(file):
        raise BundleError(f"{path} is not a bundle (no {MANIFEST})")
    plain, digest = _json(file, path)
    return manifests.check(plain, str(path)), f"sha256:{digest}"


def _json(file: Path, folder: Path) -> tuple[Any, str]:
    """Content of a file of JSON in a bundle, and the hash of the very bytes that it was read from."""
    content = files.read(_no_link(file, folder), MOST_JSON, BundleError)
    try:
        return plain_json.parse(content.decode("utf-8")), hashlib.sha256(content).hexdigest()
    except ValueError as reason:  # UnicodeDecodeError is one
        raise BundleError(f"{file} cannot be read: {reason}; copy the bundle again") from reason


def _no_link(file: Path, folder: Path) -> Path:
    if os.path.islink(file):  # noqa: PTH114  # Path's raises where a name is too long
        raise BundleError(f"{folder}: {file.name} is a link; a bundle holds its own files")
    return file


def entries(path: Path, listed: set[str]) -> set[str]:
    """List the files of a bundle's folder, all of which its manifest lists.

    Raises:
        BundleError: there is a file, folder or link that is not listed.
    """
    above = {"/".join(name.split("/")[:depth]) for name in listed for depth in range(1, name.count("/") + 1)}
    found: set[str] = set()
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        try:
            with os.scandir(path / inner) as scanned:
                for count, entry in enumerate(scanned):
                    name = f"{inner}/{entry.name}" if inner else entry.name
                    if count >= _ENTRIES:
                        raise BundleError(f"{path} is not a bundle: expected at most {_ENTRIES} entries, got more")
                    if entry.is_symlink():
                        raise BundleError(f"{path}: {_shown(name)} is a link; a bundle holds its own files")
                    folder = entry.is_dir(follow_symlinks=False)
                    if folder and name in above:
                        waiting.append(name)
                    elif folder or (name not in listed and name not in (MANIFEST, SIGNATURE)):
                        raise BundleError(
                            f"{path} holds {_shown(name)}, which its manifest does not list; move it elsewhere, or"
                            " copy the bundle again"
                        )
                    else:
                        found.add(name)
        except OSError as error:
            raise BundleError(f"{path / inner} cannot be read: {error.strerror or error}") from error
    return found


def _shown(name: str) -> str:
    return repr(name[:80].encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def unchanged(whole: Bundle) -> None:
    """Make sure that what lies at a bundle's place is still what was read, after somebody else has opened it.

    Raises:
        BundleError: it was replaced in between.
    """
    if not whole.digest:
        return  # made in memory: no folder was read
    try:
        same = files.identity(whole.path) == whole.identity and digest(whole.path) == whole.digest
    except BundleError:
        same = False
    if not same:
        raise BundleError(f"{whole.path} was replaced while it was in use, so nothing is known of it; run this again")


def digest(path: Path) -> str:
    """``sha256:…`` of the manifest of the bundle at ``path``; it holds the hash of every other file.

    Raises:
        BundleError: there is none.
    """
    content = files.read(_no_link(path / MANIFEST, path), MOST_JSON, BundleError)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parse_digest(text: str) -> str:
    """Read a digest as it was typed.

    >>> parse_digest("SHA256:" + 64 * "A")[:15]
    'sha256:aaaaaaaa'

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(?:sha256:)?([0-9a-f]{64})", text.strip().lower())
    if not found:
        raise UsageError(f"a digest is sha256: and 64 hexadecimal digits, as the main job prints it; got {text[:99]!r}")
    return f"sha256:{found[1]}"


def report(whole: Bundle) -> dict[str, Any]:
    """Read the content of a bundle's ``report.json``: the very file that its manifest lists.

    Raises:
        BundleError: it has none, or it is no report.
    """
    wanted = whole.manifest["files"].get(REPORT)
    if wanted is None:
        raise BundleError(f"{whole.path} has no {REPORT}: nothing was measured when it was written; export it again")
    content, came = _json(whole.path / REPORT, whole.path)
    if came != wanted:
        raise BundleError(f"{whole.path / REPORT} was altered while it was read; run this again")
    figures.check(content, str(whole.path / REPORT))
    return dict(content)


def report_file(file: Path, error: type[AttnExportError] = BundleError) -> dict[str, Any]:
    """Read the content of a ``report.json`` that lies anywhere.

    Raises:
        error: it is none.
    """
    content = plain_json.read(file, error, MOST_JSON)
    figures.check(content, str(file), error)
    return dict(content)
