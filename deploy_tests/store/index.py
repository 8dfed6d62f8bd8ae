"""An index of a store, for asking: SQLite, made of the files, and made again whenever it does not match them.

It lies in the user's own cache and not in the store: a store that was copied from elsewhere brings no database along
that would have to be believed, and one that is read-only, or on a network drive without locks, can be asked all the
same. A file that is there as it was is not read again; one that changed, came or went is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from attn_export.cache import place
from attn_export.deploy_tests.store import figures, folder
from attn_export.deploy_tests.store.figures import Figure
from attn_export.deploy_tests.store.record import Machine, Record, Subject
from attn_export.errors import LoadError

#: The version of the tables.
VERSION = 1
#: Seconds to wait for another reader that brings the index up to date.
_PATIENCE = 30.0

_SUBJECT = tuple(field.name for field in fields(Subject))
_FIGURE = tuple(field.name for field in fields(Figure))
_MACHINE = tuple(field.name for field in fields(Machine))
_COLUMNS = (
    "file",
    "measurement",
    "place",
    "kind",
    "recorded",
    "facts",
    *(f"machine_{name}" for name in _MACHINE),
    *(f"subject_{name}" for name in _SUBJECT),
    *_FIGURE,
)
#: ``limit`` is a word of SQL's, so every name is quoted.
_NAMES = ", ".join(f'"{name}"' for name in _COLUMNS)
_TABLES = f"""
CREATE TABLE file (name TEXT PRIMARY KEY, size INTEGER, changed INTEGER, inode INTEGER, fault TEXT) WITHOUT ROWID;
CREATE TABLE figure ({_NAMES});
CREATE INDEX of_file ON figure (file);
CREATE INDEX of_name ON figure (subject_name);
CREATE INDEX of_digest ON figure (subject_digest);
PRAGMA user_version = {VERSION};
"""
#: What of a run's surroundings may explain a change, by where it stands in a report.
_FACTS = ("system", "python", "governor", "load")


@dataclass(frozen=True)
class Point:
    """One figure of one run, with all that is known of it.

    Attributes:
        file: the run's name in the store.
        kind: the command that made it.
        recorded: when.
        machine: which measured.
        subject: what was measured.
        figure: the figure.
        facts: what may explain a change of it: libraries, system, governor and the like.
    """

    file: str
    kind: str
    recorded: str
    machine: Machine
    subject: Subject
    figure: Figure
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """A subject that a store has runs of.

    Attributes:
        name: of it.
        runs: how many.
        first: when the first of them was.
        last: when the last was.
    """

    name: str
    runs: int
    first: str
    last: str


class Index:
    """The figures of a store; ``opened`` gives one that matches it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def skipped(self) -> dict[str, str]:
        """Say which files of the store are no runs, each with the reason."""
        return dict(self._connection.execute("SELECT name, fault FROM file WHERE fault != '' ORDER BY name"))

    def known(self) -> list[Known]:
        """List what the store has runs of, by name."""
        rows = self._connection.execute(
            "SELECT subject_name, COUNT(DISTINCT measurement), MIN(recorded), MAX(recorded) FROM figure"
            " GROUP BY subject_name ORDER BY subject_name"
        )
        return [Known(*row) for row in rows]

    def points(self, *, name: str | None = None, digest: str | None = None) -> list[Point]:
        """Give the figures of a subject, or of one bundle, or all, in the order of time; each measurement once."""
        rows = self._connection.execute(
            # What was kept twice, as under two names of one bundle, is one measurement.
            f"SELECT {_NAMES} FROM figure WHERE rowid IN"  # noqa: S608  # names of ours
            " (SELECT MIN(rowid) FROM figure WHERE (?1 IS NULL OR subject_name = ?1)"
            " AND (?2 IS NULL OR subject_digest = ?2) GROUP BY measurement, place, metric, how)"
            " ORDER BY recorded, file, place",
            (name, digest),
        )
        return [_point(dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def update(self, root: Path) -> None:
        """Make it match the files of a store.

        Raises:
            LoadError: as ``folder.listed``.
        """
        there = {one.name: one for one in folder.listed(root)}
        states = {name: one.state for name, one in there.items()}
        if self._states() == states:
            return
        with self._connection:  # all of it or nothing
            self._connection.execute("BEGIN IMMEDIATE")
            known = self._states()  # another may have been first
            for name in known:
                if known[name] != states.get(name):
                    self._connection.execute("DELETE FROM figure WHERE file = ?", (name,))
                    self._connection.execute("DELETE FROM file WHERE name = ?", (name,))
            for name, one in there.items():
                if one.state != known.get(name):
                    fault = one.fault or self._take(root, name)
                    self._connection.execute("INSERT INTO file VALUES (?, ?, ?, ?, ?)", (name, *one.state, fault))

    def _states(self) -> dict[str, tuple[int, int, int]]:
        rows = self._connection.execute("SELECT name, size, changed, inode FROM file")
        return {name: (size, changed, inode) for name, size, changed, inode in rows}

    def _take(self, root: Path, name: str) -> str:
        """Take the figures of one file; say why it is no run, or nothing."""
        try:
            run = folder.read(root, name)
        except ValueError as error:
            return str(error)[:500]
        measurement, marks = run.measurement(), ", ".join("?" * len(_COLUMNS))
        for at, figure in figures.figures(run):
            row = (
                name, measurement, at, run.kind, run.recorded, json.dumps(_facts(run, at)),
                *asdict(run.machine).values(), *asdict(run.subjects[at]).values(), *asdict(figure).values(),
            )  # fmt: skip
            self._connection.execute(f"INSERT INTO figure VALUES ({marks})", row)  # noqa: S608
        return ""


@contextlib.contextmanager
def opened(root: Path, *, rebuild: bool = False) -> Iterator[Index]:
    """Give the index of a store, as its files are now; ``rebuild`` makes it anew whatever is there.

    Raises:
        LoadError: the store cannot be read, or is none.
    """
    connection = _matching(_file(root), root, rebuild=rebuild)
    try:
        yield Index(connection)
    finally:
        connection.close()


def _matching(file: str, root: Path, *, rebuild: bool) -> sqlite3.Connection:
    """Connect to an index that matches its store; one that is none, or is broken, holds nothing that the files lack."""
    try:
        connection = _connected(file, rebuild=rebuild)
        try:
            Index(connection).update(root)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        if not rebuild:
            return _matching(file, root, rebuild=True)
        raise LoadError(f"the index {file} cannot be made: {error}; free some space, or remove it") from error
    return connection


def _file(root: Path) -> str:
    """Name the file of a store's index in the user's cache; in memory where there is to be no cache, or none can be."""
    if os.environ.get(place.FOLDER, "") == place.OFF:
        return ":memory:"
    home = place.of_user() / "stores"
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
        if place.fault(home):
            return ":memory:"
    except OSError:
        return ":memory:"
    return str(home / f"{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]}.sqlite")


def _connected(file: str, *, rebuild: bool) -> sqlite3.Connection:
    if rebuild and file != ":memory:":
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{file}{suffix}").unlink(missing_ok=True)
    connection = sqlite3.connect(file, timeout=_PATIENCE, isolation_level=None)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.DatabaseError("of another version")
            # Two that find it empty: the second waits for the first, and then finds the tables.
            with contextlib.suppress(sqlite3.OperationalError):
                connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
            connection.rollback()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _facts(run: Record, at: int) -> dict[str, Any]:
    """Collect what may explain a change."""
    runs = run.report.get("runs")
    plain = runs[at] if isinstance(runs, list) and at < len(runs) else {}
    plain = plain if isinstance(plain, Mapping) else {}
    around = plain.get("environment") or run.report.get("environment")
    around = around if isinstance(around, Mapping) else {}
    found = {name: around[name] for name in _FACTS if isinstance(around.get(name), (str, int, float))}
    libraries = around.get("libraries")
    if isinstance(libraries, Mapping):
        found |= {str(name)[:80]: str(version)[:80] for name, version in list(libraries.items())[:100]}
    return {**found, "bundle": run.subjects[at].digest, "version": run.subjects[at].version}


def _point(row: Mapping[str, Any]) -> Point:
    def part(kind: Sequence[str], prefix: str = "") -> dict[str, Any]:
        return {name: row[f"{prefix}{name}"] for name in kind}

    subject = Subject(**{**part(_SUBJECT, "subject_"), "fused": bool(row["subject_fused"])})
    figure = Figure(**{**part(_FIGURE), "ok": bool(row["ok"])})
    machine = Machine(**part(_MACHINE, "machine_"))
    return Point(row["file"], row["kind"], row["recorded"], machine, subject, figure, json.loads(row["facts"]))
