"""A run of the real command line in a place of its own, and what is left of it afterwards: kills and straits use it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from attn_export import bundle
from attn_export.cache import place
from attn_export.errors import AttnExportError
from attn_export.process import children
from benchmarks.attack.originals import INPUT

#: In the environment of every process of a run, so that what outlives it is found.
MARK = "ATTACK_MARK"
#: Seconds that anything of a run may outlive it.
GRACE = 5.0
#: The command line as users start it.
#: The cache is off: a run must do its work, whatever another left.
_KEPT = ("PATH", "LANG", "PYTHONPATH", place.FOLDER)
PROGRAM = (sys.executable, "-m", "attn_export")


@dataclass(frozen=True)
class HarmedRun:
    """What is run.

    Attributes:
        words: the command line; ``{target}`` is where the bundle goes, which is the last thing that it changes.
        target: what ``{target}`` is, as seen from the working folder.
        again: the command that runs afterwards and must leave nothing over; ``words`` where it is empty.
    """

    name: str
    words: tuple[str, ...]
    target: str = "out"
    again: tuple[str, ...] = ()

    def line(self, again: bool = False) -> list[str]:
        """Return the words with their target."""
        return [word.format(target=self.target) for word in (self.again or self.words if again else self.words)]


_QUICK = ("--no-bench", "--mutants", "none", "-v", "-o", "{target}")
_GRAPH = ("x.onnx", "--input", "x:b=2x2x4x4", "--no-simplify", *_QUICK)
#: The main job on a graph takes two seconds, and passes every stage but the exporter and the simplifier.
GRAPH = HarmedRun("graph", _GRAPH)
JOBS: dict[str, HarmedRun] = {
    "graph": GRAPH,
    "main": HarmedRun("main", ("se", "--preset", "test", *_QUICK), again=_GRAPH),
    "fused": HarmedRun("fused", ("net.py:Net", "--input", INPUT, "--fuse", *_QUICK), again=_GRAPH),
    "sweep": HarmedRun(
        "sweep", ("sweep", "--family", "mlp", "--no-fuse", "--no-variants", "--mutants", "none", "-o", "{target}")
    ),
}


@dataclass
class RunFolder:
    """Folders for one run: where the user stands, home, and temporary files.

    Attributes:
        root: the folder of all of them.
        token: marks every process of the run.
        home: what HOME says; None for no HOME.
        tmp: what TMPDIR says; None for no TMPDIR.
        more: other variables.
    """

    root: Path
    honest: Path
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    home: Path | None = None
    tmp: Path | None = None
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home, self.tmp = self.root / "home", self.root / "tmp"
        for folder in (self.work, self.home, self.tmp):
            folder.mkdir(parents=True)
        shutil.copyfile(self.honest / "graphs" / "branches.onnx", self.work / "x.onnx")
        shutil.copyfile(self.honest / "net.py", self.work / "net.py")
        shutil.copytree(self.honest / "fused", self.work / "b")

    @property
    def work(self) -> Path:
        """The working folder."""
        return self.root / "work"

    def environment(self) -> dict[str, str]:
        """Return what the run sees."""
        kept = {name: value for name, value in children.environment().items() if name in _KEPT}
        kept |= {"PYTHONDONTWRITEBYTECODE": "1", MARK: self.token, **self.more}
        if self.home:
            kept["HOME"] = str(self.home)
        if self.tmp:
            kept["TMPDIR"] = str(self.tmp)
        return kept

    def start(self, words: Sequence[str], program: Sequence[str] = PROGRAM, **more: Any) -> subprocess.Popen[bytes]:
        """Start it in a session of its own; what it says goes to ``out.txt`` and ``err.txt``."""
        streams: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": self.open("out.txt"),
            "stderr": self.open("err.txt"),
        }
        chosen = {"cwd": self.work, **streams, **more}
        try:
            return subprocess.Popen([*program, *words], env=self.environment(), start_new_session=True, **chosen)
        finally:
            for stream in streams.values():
                if not isinstance(stream, int):
                    stream.close()

    def open(self, name: str) -> IO[bytes]:
        """Open a file beside the working folder, empty."""
        return (self.root / name).open("wb")

    def said(self, name: str = "err.txt") -> str:
        """Read what was said."""
        file = self.root / name
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def alive(self) -> list[int]:
        """List processes of the run that still live, whoever their parent is now."""
        found = []
        wanted = f"{MARK}={self.token}".encode()
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def survivors(self) -> list[int]:
        """List processes that outlive the run by more than the grace; they are ended."""
        deadline = time.monotonic() + GRACE
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return left

    def litter(self, target: Path) -> list[str]:
        """List what a run that is over has no business to leave: temporary files, half bundles, things at home."""
        found = list(target.parent.rglob(".*.partial"))
        found += [path for path in target.parent.rglob("*.partial") if not path.name.startswith(".")]
        for folder in (self.tmp, self.home):
            if folder and folder.is_dir():
                found += [path for path in folder.iterdir() if not path.name.startswith("attn-export-crash-")]
        return sorted({os.path.relpath(path, self.root) for path in found})


def identity(path: Path) -> str:
    """Hash all that a bundle holds, empty where there is nothing, with a reason where it is not whole."""
    if not path.exists() and not path.is_symlink():
        return ""
    try:
        bundle.read(path)
    except AttnExportError as error:
        return f"not whole: {error}"
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        digest.update(f"{file.relative_to(path)}".encode())
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def wait(process: subprocess.Popen[bytes], limit: float) -> int | None:
    """Await the exit code; None where it takes longer than ``limit`` seconds."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
