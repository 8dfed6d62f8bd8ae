"""Run an attempt in this process: the very commands of the command line, caught at the top instead of printed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

import typer.main

from attn_export.process import activity
from attn_export.tools import ending
from attn_export.untrusted import text
from benchmarks.attack.attempt import DOCUMENTED, Attempt, AttemptOutcome, Generator
from benchmarks.attack.box import Box

#: What is done while the input is made: a death then is the bench's own.
MAKING = "making the input"
#: Bytes that an attempt may hold beyond what the worker held before.
MEMORY = 700 << 20
#: Bytes of addresses beyond those: an allocation that does not fit fails, as on a small device.
ADDRESSES = 3 << 30
#: Bytes of a file that it may write.
FILE = 400 << 20
#: Longer errors are no sentence.
LONGEST, LINES = 4000, 25
#: What costs seconds: reached is enough, unless an attempt wants it in full.
DEAR = (
    ("attn_export.pipeline.deploy", "_deploy"),
    ("attn_export.pipeline.sweep.sweeping", "Local"),
    ("attn_export.tools.commands.bench", "measure_bundle"),
    ("attn_export.tools.commands.bench", "compare_latency"),
    ("attn_export.deploy_tests.conformance.kit", "_conform_one"),
    ("attn_export.pipeline.lint", "by_parser"),
    ("attn_export.pipeline.divergence.variants", "build"),
    ("attn_export.deploy_tests.backends.tensorrt.evidence", "compile_only"),
)


class Reached(Exception):  # noqa: N818  # no error: the attempt has come to where the dear work begins
    """The input was believed, and the work that it asks for would begin now."""


def _reached(*_: object, **__: object) -> Any:
    raise Reached


def _dear() -> Iterator[tuple[Any, str]]:
    """Yield what is dear, as far as it is imported: the owner, and the name in it.

    Raises:
        AttributeError: something of the list is not where it was; the list is to be mended.
    """
    for module, path in DEAR:
        if module in sys.modules:
            owner: Any = sys.modules[module]
            *steps, name = path.split(".")
            for step in steps:
                owner = getattr(owner, step)
            getattr(owner, name)
            yield owner, name


@contextlib.contextmanager
def reached_is_enough() -> Iterator[None]:
    """Put ``Reached`` in the place of what costs seconds."""
    before = [(owner, name, getattr(owner, name)) for owner, name in _dear()]
    try:
        for owner, name, _ in before:
            setattr(owner, name, _reached)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def prepare(modules: tuple[str, ...]) -> None:
    """Import what the attempts need, before the fork, once.

    Raises:
        AttributeError: what is dear has moved.
    """
    for path in (*modules, "attn_export.tools.cli"):
        importlib.import_module(path)
    list(_dear())


class Capture:
    """Standard output and error in files of memory, also of code that knows nothing of Python."""

    def __init__(self) -> None:
        self._files = [os.memfd_create(name) for name in ("out", "err")]
        for number, file in enumerate(self._files, 1):
            os.dup2(file, number)
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)

    def take(self) -> tuple[str, str]:
        """Return what was written since the last time."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        texts = []
        for file in self._files:
            texts.append(os.pread(file, 50_000_000, 0).decode("utf-8", "replace"))
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
        return texts[0], texts[1]


def _status(name: str) -> int:
    """Read a line of this process's status, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("5")


class Inside:
    """Runs attempts, one after another, in this process and a box."""

    def __init__(self, box: Box, originals: Path) -> None:
        from attn_export.tools import cli

        self.box, self.originals = box, originals
        self.command = typer.main.get_command(cli.app)
        self.capture = Capture()
        self.count = 0
        gc.freeze()  # what was imported is not looked through again
        os.environ.update({"HOME": str(box.home), "TMPDIR": str(box.tmp)})
        tempfile.tempdir = None
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        warnings.simplefilter("ignore")

    def run(self, kind: str, seed: int, make: Generator) -> AttemptOutcome:
        """Make the input and run it."""
        self.box.fresh()
        os.chdir(self.box.work)
        with activity.doing(MAKING):
            attempt = make(self.box.work, self.originals, Random(f"{kind} {seed}"))  # noqa: S311
        os.chdir(self.box.work)
        before = self.box.look()
        self.count += 1
        if self.count % 20 == 0:
            gc.collect()
            _trim()
        _reset_peak()
        held = _status("VmRSS")
        began = time.perf_counter()
        with _limited(_status("VmSize") + ADDRESSES):
            code, fault = self._call(attempt)
        seconds = time.perf_counter() - began
        took = _status("VmHWM") - held
        out, err = self.capture.take()
        said, where = err.strip(), ""
        flaws = sentences(err, code, "--debug" in attempt.words)
        if fault is not None:
            where, trace = site(fault)
            flaws, said = ["traceback"], f"{type(fault).__name__}: {str(fault)[:300]}\n{trace}"
        flaws += judge(attempt, code, out) or judge(None, None, err)
        if took > MEMORY:
            flaws, said = [*flaws, "memory"], f"{took >> 20} MB; {said}"
        if attempt.paste:
            _paste(out, self.box.work)
        for flaw, name in self.box.harm(before, attempt.writes):
            flaws, said = [*flaws, flaw], f"{flaw}: {name}; {said}"
        os.chdir(self.box.root)
        return AttemptOutcome(
            kind,
            seed,
            "in",
            tuple(dict.fromkeys(flaws)),
            code,
            said[:600],
            where,
            attempt.what,
            attempt.words,
            round(seconds, 3),
        )

    def _call(self, attempt: Attempt) -> tuple[int, BaseException | None]:
        """Return the exit code, and the exception that is a fault of ours, if any."""
        sys.argv = ["attn-export", *attempt.words]
        faults: list[BaseException] = []

        def work() -> object:
            try:
                with contextlib.nullcontext() if attempt.full else reached_is_enough():
                    return self.command.main(args=list(attempt.words), prog_name="attn-export", standalone_mode=False)
            except Reached:
                return None

        def ours(error: BaseException) -> int:
            faults.append(error)
            return ending.OURS

        judged = ending._ours
        ending._ours = ours  # where the command line writes a log, the exception itself is wanted here
        try:
            code = ending.coded(work)
        except BaseException as error:  # what not even the command line's own end caught
            faults.append(error)
            code = ending.OURS
        finally:
            ending._ours = judged
        return code, faults[0] if faults else None


def sentences(err: str, code: int | None, asked: bool = False) -> list[str]:
    """Flaws of what was said on standard error: a traceback that nobody ``asked`` for, or no sentence."""
    if code == ending.OURS or ("Traceback (most" in err and not asked):
        return ["traceback"]
    if code not in DOCUMENTED:
        return ["exit"]
    lines = err.strip().splitlines()
    told = [line for line in lines if line.lower().startswith(("error:", "usage:"))]
    long = len(err) > LONGEST or (len(lines) > LINES and not lines[0].startswith("Usage:"))
    if (long and not asked) or (code and not told):
        return ["wordy"]
    return []


def judge(attempt: Attempt | None, code: int | None, out: str) -> list[str]:
    """Flaws of what was printed; without an attempt, of what was said on standard error."""
    if text.printable(out) != out:
        return ["escape"]
    if attempt is None:
        return []
    if code in (0, 1) and attempt.kind_of_output == "xml" and out.strip():
        try:
            ET.fromstring(out)  # noqa: S314  # our own output is what is tested
        except ET.ParseError:
            return ["escape"]
    if code in (0, 1) and attempt.kind_of_output == "json" and out.strip():
        try:
            json.loads(out)
        except ValueError:
            return ["escape"]
    if attempt.kind_of_output == "page" and _TAGS.search(_CODE.sub("", out)):
        return ["escape"]
    return []


#: What a name would make of a page that takes it for markup; in code, or behind a backslash, it is a name.
_TAGS = re.compile(r"(?<!\\)<(?:script>alert|img src=x)")
_CODE = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)


def _paste(out: str, folder: Path) -> None:
    """Paste the command lines that were printed into a shell, where ``attn-export`` is a command that does nothing."""
    lines = re.findall(r"^[ `$]*(attn-export [^\n]*)", out, re.MULTILINE)
    for block in re.findall(r"^(`{3,})\w*\n(.*?)^\1", out, re.MULTILINE | re.DOTALL):
        if "attn-export" in block[1]:
            lines.append(block[1])
    (folder.parent / "bin").mkdir(exist_ok=True)
    stub = folder.parent / "bin" / "attn-export"
    stub.write_text("#!/bin/sh\n", encoding="utf-8")
    stub.chmod(0o755)
    environment = {"PATH": f"{stub.parent}:/usr/bin:/bin"}
    for line in dict.fromkeys(lines):
        script = line.encode("utf-8", "replace")
        subprocess.run(["sh"], input=script, env=environment, cwd=folder, capture_output=True, check=False)
    shutil.rmtree(stub.parent)


def site(error: BaseException) -> tuple[str, str]:
    """Return the last line of ours that an exception passed, and the last lines of its trace."""
    last, frames = "", list[str]()
    step: TracebackType | None = error.__traceback__
    while step is not None:
        name, function = os.path.realpath(step.tb_frame.f_code.co_filename), step.tb_frame.f_code.co_name
        ours = os.path.relpath(name, _ROOT)
        if _HERE not in name:
            frames.append(f"{name}:{step.tb_lineno} {function}")
            if not ours.startswith("..") and "site-packages" not in ours:
                last = f"{type(error).__name__} at {ours}:{step.tb_lineno} {function}"
        step = step.tb_next
    return last or type(error).__name__, "\n".join(frames[-6:])


_HERE = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120
_ROOT = str(Path(_HERE).parents[1])


@contextlib.contextmanager
def _limited(most: int) -> Iterator[None]:
    limits = {resource.RLIMIT_AS: most, resource.RLIMIT_FSIZE: FILE}
    before = {which: resource.getrlimit(which) for which in limits}
    for which, limit in limits.items():
        resource.setrlimit(which, (limit, before[which][1]))
    try:
        yield
    finally:
        for which, pair in before.items():
            resource.setrlimit(which, pair)


def _trim() -> None:
    """Give back what the last attempt left to the allocator, so that the next is not measured against it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
