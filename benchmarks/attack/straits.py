"""Runs in narrow straits: full disks, read-only folders, no HOME, little memory, streams that are closed or die.

Each row says what the exit code and the sentence must be. What needs a file system of its own is mounted where nobody
else sees it (a mount namespace); where this user may not, the row is skipped with the reason.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.attack import box
from benchmarks.attack.runs import GRAPH, RunFolder, identity, wait

VERIFY = ("verify", "b")
JOB = tuple(GRAPH.line())


@dataclass
class StraitRow:
    """One strait, and what was found in it.

    Attributes:
        words: the command line.
        codes: the exit codes that are right.
        says: what standard error must hold where the code is not 0.
        prints: what standard output must hold where the code is 0.
        narrow: makes the strait; what it returns goes to ``Popen``.
        mounts: whether it needs a file system of its own.
        faults: what was wrong.
        skipped: why it could not be tried here.
    """

    name: str
    words: tuple[str, ...]
    codes: tuple[int, ...]
    says: str = ""
    prints: str = ""
    narrow: Callable[[RunFolder], dict[str, Any] | None] = lambda _: None
    mounts: bool = False
    older: bool = False
    code: int | None = None
    said: str = ""
    faults: list[str] = field(default_factory=list)
    skipped: str = ""


def _limit(which: int, most: int, *, hard: bool = True) -> Callable[[RunFolder], dict[str, Any]]:
    def narrow(_: RunFolder) -> dict[str, Any]:
        return {"preexec_fn": lambda: resource.setrlimit(which, (most, most if hard else resource.getrlimit(which)[1]))}

    return narrow


def _disk(place: Path, size: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    box.mount("tmpfs", place, "tmpfs", 0, f"size={size}")


def _full_target(place: RunFolder) -> None:
    _disk(place.work / "disk", "24k")


def _full_target_older(place: RunFolder) -> None:
    """Make room for the older bundle, and for half of a second one beside it."""
    older = place.honest / "bundle"
    pages = sum(-(-file.stat().st_size // 4096) for file in older.iterdir())
    _disk(place.work / "disk", f"{6 * pages}k")
    shutil.copytree(older, place.work / "disk" / "out")


def _full_tmp(place: RunFolder) -> None:
    assert place.tmp
    _disk(place.tmp, "64k")
    with contextlib.suppress(OSError), (place.tmp / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def _read_only(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    box.mount(str(folder), folder, None, box.BIND)
    box.mount("none", folder, None, box.REMOUNT | box.BIND | box.READ_ONLY)


def _read_only_target(place: RunFolder) -> None:
    (place.work / "disk").mkdir()
    shutil.copytree(place.honest / "bundle", place.work / "disk" / "out")
    _read_only(place.work / "disk")


def _home(what: str) -> Callable[[RunFolder], None]:
    return _folder("home", what)


def _tmp(what: str) -> Callable[[RunFolder], None]:
    return _folder("tmp", what)


def _folder(which: str, what: str) -> Callable[[RunFolder], None]:
    """Take away a folder that the run relies on: none, a file in its place, missing, or read-only."""

    def narrow(place: RunFolder) -> None:
        if what == "none":
            setattr(place, which, None)
        elif what == "file":
            file = place.root / f"{which}file"
            setattr(place, which, file)
            file.write_text("no folder", encoding="utf-8")
        elif what == "missing":
            setattr(place, which, place.root / "nowhere")
        else:
            folder = getattr(place, which)
            assert folder
            _read_only(folder)

    return narrow


def _stream(number: int, what: str) -> Callable[[RunFolder], dict[str, Any]]:
    """Give a standard stream that is closed, full, or whose other end is gone."""
    name = ("stdin", "stdout", "stderr")[number]

    def narrow(place: RunFolder) -> dict[str, Any]:
        if what == "closed":
            return {"preexec_fn": lambda: os.close(number)}
        if what == "full":
            return {name: os.open("/dev/full", os.O_RDWR)}
        reader, writer = os.pipe()

        def read_and_go() -> None:
            os.read(reader, 10)
            os.close(reader)

        if what == "dies":  # read a few bytes, then go: the run meets the broken pipe in the middle
            threading.Thread(target=read_and_go, daemon=True).start()
        else:
            os.close(reader)
        del place
        return {name: writer}

    return narrow


def _gone(place: RunFolder) -> dict[str, Any]:
    """Remove the working folder under the run."""
    folder = place.work / "gone"
    folder.mkdir()
    return {"cwd": folder, "preexec_fn": lambda: os.rmdir(folder)}  # noqa: PTH106


def _variables(**more: str) -> Callable[[RunFolder], None]:
    return lambda place: place.more.update(more)


MB = 1 << 20
LITTLE = "memory|cannot|could not|failed|died by|not enough"


def rows() -> list[StraitRow]:
    """Every strait."""
    target = ("-o", "disk/out")
    on_disk = (*JOB[:-2], *target)
    found = [
        StraitRow("disk full", on_disk, (3,), "No space left", narrow=_full_target, mounts=True),
        StraitRow(
            "disk full, older bundle on it",
            on_disk,
            (3,),
            "No space left",
            narrow=_full_target_older,
            mounts=True,
            older=True,
        ),
        StraitRow("TMPDIR full", JOB, (0, 3), "No space left", narrow=_full_tmp, mounts=True),
        StraitRow("TMPDIR full, verify", VERIFY, (0,), narrow=_full_tmp, mounts=True),
        StraitRow("read-only target", on_disk, (3,), "Read-only", narrow=_read_only_target, mounts=True, older=True),
        StraitRow("read-only TMPDIR", JOB, (0, 3), "Read-only", narrow=_tmp("read-only"), mounts=True),
        StraitRow("read-only HOME", JOB, (0,), narrow=_home("read-only"), mounts=True),
        StraitRow("no HOME", JOB, (0,), narrow=_home("none")),
        StraitRow("HOME is a file", VERIFY, (0,), narrow=_home("file")),
        StraitRow("HOME is nowhere", VERIFY, (0,), narrow=_home("missing")),
        StraitRow("no TMPDIR", JOB, (0,), narrow=_tmp("none")),
        StraitRow("TMPDIR is a file", VERIFY, (0,), narrow=_tmp("file")),
        StraitRow("TMPDIR is nowhere", VERIFY, (0,), narrow=_tmp("missing")),
        StraitRow(
            "files of 4 kB at most", JOB, (3,), "too large|too big|File too", narrow=_limit(resource.RLIMIT_FSIZE, 4096)
        ),
        StraitRow("12 open files at most", JOB, (0, 3), "open files", narrow=_limit(resource.RLIMIT_NOFILE, 12)),
        StraitRow("24 open files at most", VERIFY, (0, 3), "open files", narrow=_limit(resource.RLIMIT_NOFILE, 24)),
    ]
    found += [
        StraitRow(
            f"{size} MB of addresses, {words[0]}", words, (0, 3), LITTLE, narrow=_limit(resource.RLIMIT_AS, size * MB)
        )
        for words, sizes in ((VERIFY, (100, 300, 700)), (JOB, (500, 1200)))
        for size in sizes
    ]
    for number, what, codes, says in (
        (0, "closed", (0,), ""),
        (1, "closed", (0,), ""),
        (1, "full", (3,), "standard output"),
        (1, "broken", (141,), ""),
        (2, "closed", (0,), ""),
        (2, "full", (0,), ""),
        (2, "broken", (0,), ""),
    ):
        name = ("standard input", "standard output", "standard error")[number]
        prints = "parity holds" if number != 1 else ""
        found.append(StraitRow(f"{name} {what}, verify", VERIFY, codes, says, prints, narrow=_stream(number, what)))
    json = (*VERIFY, "--json")
    found += [
        StraitRow("standard error dies, job", JOB, (0,), prints="parity holds", narrow=_stream(2, "dies")),
        StraitRow("standard error broken, json", json, (0,), prints='"sentence"', narrow=_stream(2, "broken")),
        StraitRow("standard output full, json", json, (3,), "standard output", narrow=_stream(1, "full")),
        StraitRow("standard output full, job", JOB, (3,), "standard output", narrow=_stream(1, "full")),
        StraitRow("standard output broken, list", ("list",), (141, 0), narrow=_stream(1, "broken")),
        StraitRow("standard output broken, report", ("report", "b"), (141,), narrow=_stream(1, "broken")),
        StraitRow("working folder gone", ("list",), (0,), narrow=_gone),
        StraitRow("working folder gone, verify", VERIFY, (3,), "", narrow=_gone),
        StraitRow(
            "locale C", VERIFY, (0,), prints="parity holds", narrow=_variables(LC_ALL="C", LANG="C", PYTHONUTF8="0")
        ),
        StraitRow("a terminal of no width", VERIFY, (0,), narrow=_variables(COLUMNS="0", LINES="0", TERM="dumb")),
    ]
    return found


def pass_through(row: StraitRow, root: Path, honest: Path) -> StraitRow:
    """Run in one strait and look at everything."""
    place = RunFolder(root, honest)
    target = place.work / row.words[-1] if "-o" in row.words else place.work / "out"
    more = row.narrow(place) or {}
    before = identity(target)
    process = place.start(row.words, **more)
    for stream in ("stdin", "stdout", "stderr"):
        if isinstance(more.get(stream), int) and more[stream] > 2:
            os.close(more[stream])
    row.code = wait(process, 120)
    if row.code is None:
        process.kill()
        row.faults.append("it does not end")
    if place.survivors():
        row.faults.append("processes outlive it")
    process.wait()
    row.said = place.said()
    _listen(row, place.said("out.txt"))
    after = identity(target)
    if after.startswith("not whole"):
        row.faults.append(f"the bundle is {after}")
    if row.older and row.code and after != before:
        row.faults.append("the older bundle is not what it was")
    litter = [name for name in place.litter(target) if not name.endswith("ballast")]
    if litter:
        row.faults.append(f"left over: {', '.join(litter)}")
    return row


def _listen(row: StraitRow, out: str) -> None:
    """Note what is wrong about how a run ended and what it said."""
    last = row.said.strip().splitlines()[-1] if row.said.strip() else ""
    if "Traceback" in row.said:
        row.faults.append(f"a traceback: {last[:200]}")
    if row.code not in row.codes:
        row.faults.append(f"exit code {row.code}, wanted {' or '.join(map(str, row.codes))}: {last[:200]}")
    elif row.code and row.says and not any(word in row.said for word in row.says.split("|")):
        row.faults.append(f"says nothing of {row.says!r}: {last[:200]}")
    if row.code == 0 and row.prints and row.prints not in out:
        row.faults.append(f"prints nothing of {row.prints!r}")


def run(folder: Path, honest: Path, workers: int = 2) -> list[StraitRow]:
    """Pass through every strait."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        box.private_mounts()
        reason = ""
    except OSError as error:
        reason = f"no file system can be mounted here: {error}"
    found = rows()
    for row in found:
        if row.mounts and reason:
            row.skipped = reason
    tried = [row for row in found if not row.skipped]
    with ThreadPoolExecutor(workers) as threads:
        jobs = [threads.submit(pass_through, row, folder / str(index), honest) for index, row in enumerate(tried)]
        for job in jobs:
            job.result()
    box.unmount_below(folder.resolve())
    return found


def table(found: Sequence[StraitRow]) -> str:
    """Every strait, its exit code and its sentence."""
    lines = ["| strait | command | exit code | sentence | faults |", "|---|---|---|---|---|"]
    for row in found:
        last = row.said.strip().splitlines()[-1][:100] if row.said.strip() and row.code else ""
        outcome = row.skipped or "; ".join(row.faults) or "none"
        lines.append(f"| {row.name} | {row.words[0]} | {row.code} | {last} | {outcome} |")
    return "\n".join(lines)
