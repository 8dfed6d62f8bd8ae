"""Run an attempt through the real command line: a process of its own, in a box, with a clock."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from random import Random

from attn_export.cache import place
from attn_export.process import children
from benchmarks.attack.attempt import AttemptOutcome, Generator
from benchmarks.attack.box import Box
from benchmarks.attack.inside import judge, sentences

#: Bytes of addresses that any process of a run may have: this machine is shared.
ADDRESSES = 24 << 30
#: Seconds that one step of a run may take; the default is for large models.
PATIENCE = 10.0


#: The cache is off: a run must do its work, whatever another left.
_KEPT = ("PATH", "LANG", "PYTHONPATH", place.FOLDER)


def environment(box: Box) -> dict[str, str]:
    """Give a user's environment with nothing of ours in it but where the package is."""
    kept = {name: value for name, value in children.environment().items() if name in _KEPT}
    kept["PATH"] = kept.get("PATH", os.defpath)
    return {**kept, "HOME": str(box.home), "TMPDIR": str(box.tmp)}


def of_session(session: int) -> list[int]:
    """List processes of a session that are alive."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def end_session(session: int) -> None:
    """Kill what is left of a session."""
    for process in of_session(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class Outside:
    """Runs attempts as a user would."""

    def __init__(self, box: Box, originals: Path, limit: float) -> None:
        self.box, self.originals, self.limit = box, originals, limit

    def run(self, kind: str, seed: int, make: Generator) -> AttemptOutcome:
        """Make the input and run it."""
        self.box.fresh()
        os.chdir(self.box.work)
        attempt = make(self.box.work, self.originals, Random(f"{kind} {seed}"))  # noqa: S311
        before = self.box.look()
        flaws: list[str] = []
        began = time.perf_counter()
        words = [
            word.encode("utf-8", "surrogateescape") if _encodable(word) else b""
            for word in _timed(attempt.words, PATIENCE)
        ]
        command = [*map(os.fsencode, children.command("attn_export")), *(word.replace(b"\0", b"") for word in words)]
        out, err = b"", b""
        with subprocess.Popen(
            command,
            cwd=self.box.work,
            env=environment(self.box),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_limits,  # noqa: PLW1509  # this process has one thread
        ) as child:
            try:
                out, err = child.communicate(timeout=self.limit)
            except subprocess.TimeoutExpired:
                flaws.append("hang")
                end_session(child.pid)
                out, err = child.communicate()
        code, said = child.returncode, err.decode("utf-8", "replace").strip()
        if not flaws:
            if of_session(child.pid):
                flaws.append("left")
                said = f"left: processes; {said}"
                end_session(child.pid)
            flaws += (
                ["death"] if code < 0 or code in (134, 137, 139) else sentences(said, code, "--debug" in attempt.words)
            )
        shown = out.decode("utf-8", "replace")
        flaws += judge(attempt, code, shown) or judge(None, None, said)
        for flaw, name in self.box.harm(before, attempt.writes):
            if flaw != "left" or not _named(name, said):
                flaws, said = [*flaws, flaw], f"{flaw}: {name}; {said}"
        os.chdir(self.box.root)
        where = said.splitlines()[-1][:120] if "traceback" in flaws and said else ""
        return AttemptOutcome(
            kind,
            seed,
            "cli",
            tuple(dict.fromkeys(flaws)),
            code,
            said[-600:],
            where,
            attempt.what,
            attempt.words,
            round(time.perf_counter() - began, 3),
        )


def _named(name: str, said: str) -> bool:
    """Whether a run says where it left something: a log, or the model that a runtime died on."""
    parts = name.split("/")
    return len(parts) > 1 and parts[0] == "tmp" and parts[1].startswith("attn-export-crash-") and parts[1] in said


def _timed(words: tuple[str, ...], seconds: float) -> tuple[str, ...]:
    """Give the same command with less patience."""
    return words if "--timeout" in words or "--" in words else (*words, "--timeout", f"{seconds:g}")


def _encodable(word: str) -> bool:
    try:
        word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
