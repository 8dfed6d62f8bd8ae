"""Run one job on this machine, to its end: in an interpreter or a command of its own, under its limits."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attn_export.pipeline.sweep import locks
from attn_export.pipeline.sweep.child import Answer, Child
from attn_export.pipeline.sweep.job import MeasureJob
from attn_export.pipeline.sweep.order import Order
from attn_export.pipeline.sweep.rows import SweepRow
from attn_export.process import children
from attn_export.untrusted import plain_json

#: What is asked of a bundle on a device, one after the other.
COMMANDS = ("verify", "bench")


def work(order: Order, folder: Path, child: Child, bundle: Path | None = None, memory: int = 0) -> SweepRow:
    """Run a job and leave its bundle and its log in ``folder``, both under its label.

    A measurement has the machine to itself, or its device; waiting for that is no part of its time.

    Args:
        order: what is to be done.
        folder: where the bundle (of a build) and the log go.
        child: what runs builds.
        bundle: the bundle that is measured.
        memory: bytes that it may hold; 0 for no limit.
    """
    job = order.job
    if isinstance(job, MeasureJob):
        assert bundle is not None
        place = locks.device(job.address) if job.address else locks.machine(alone=True)
        with place, _own(job, bundle) as copied:
            began, clock = time.time(), time.monotonic()
            answer = _measured(job, copied, folder, order.limit, memory)
            seconds = time.monotonic() - clock
    else:
        asked = {
            **asdict(job),
            "label": job.label,
            "target": str(folder / job.label),
            "log": str(folder / f"{job.label}.log"),
            "bench": order.bench,
            "mutants": order.mutants,
        }
        with locks.machine(alone=order.bench):
            began, clock = time.time(), time.monotonic()
            answer = child.ask(asked, order.limit, memory)
            seconds = time.monotonic() - clock
    return order.row(
        answer.status, answer.message, seconds=round(seconds, 2), result=answer.result, began=round(began, 3)
    )


@contextlib.contextmanager
def _own(job: MeasureJob, bundle: Path) -> Iterator[Path]:
    """Give the bundle, or a copy where the command would keep its run in it: what is measured again has its digest."""
    if not job.address:
        yield bundle
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(shutil.copytree(bundle, Path(place) / bundle.name))


def _measured(job: MeasureJob, bundle: Path, folder: Path, limit: float, memory: int) -> Answer:
    """Prove the bundle, and measure it if it is proven: the command line does both, here or on the device."""
    until = time.monotonic() + limit
    reports: dict[str, Any] = {}
    log = folder / f"{job.label}.log"
    log.unlink(missing_ok=True)
    for command in COMMANDS:
        words = command_line(job, command, bundle, memory)
        try:
            done = children.run("attn_export", *words, timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return Answer("too slow", f"{command} was stopped after {limit:.0f} s")
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"$ attn-export {' '.join(words)}\n{done.stderr}")
        said = _json(done.stdout)
        if isinstance(said, dict):
            (folder / job.label).mkdir(exist_ok=True)
            (folder / job.label / f"{command}.json").write_text(done.stdout, encoding="utf-8")
        if done.returncode:
            return _failed(done, said)
        reports[command] = said
    return _summary(reports)


def command_line(job: MeasureJob, command: str, bundle: Path, memory: int = 0) -> list[str]:
    """Give the words behind ``attn-export`` that prove or measure a bundle where the job wants it."""
    there = ["--on", job.address] if job.address else []
    most = ["--memory-limit", f"{memory / 1e9:.3g}"] if memory else []
    words = [command, str(bundle), "--backend", job.target, "--json", "--threads", str(job.bench.threads)]
    if command == "bench":
        words += ["--warmup", f"{job.bench.warmup:g}", "--iterations", str(job.bench.iterations)]
        words += ["--duration", f"{job.bench.duration:g}", "--quiet"]
    return [*words, *there, *most]


def _json(text: str) -> Any:
    try:
        return plain_json.parse(text)
    except ValueError:
        return None


def _failed(done: subprocess.CompletedProcess[str], said: Any) -> Answer:
    """Say why a command failed, in its own words where it left some."""
    if done.returncode < 0 or not isinstance(said, dict):
        return Answer("died", children.ending(done.returncode, done.stderr))
    if "error" in said:
        return Answer(said.get("kind") or "GateError", said["error"])
    words = done.stderr.strip().splitlines()
    status = "GateError" if done.returncode == 1 else f"exit {done.returncode}"
    return Answer(status, words[-1] if words else "it said nothing")


def _summary(reports: dict[str, Any]) -> Answer:
    """Take the line and the figures for the table; the reports themselves lie beside the log."""
    try:
        proven, run = reports["verify"], reports["bench"]["runs"][0]
        wall = run["latency"]["wall_ms"]
        kept = {name: run[name] for name in ("backend", "version", "device", "artifact", "environment", "preflight")}
        kept |= {"bundle": proven["bundle"], "digest": proven["digest"], "wall_ms": wall}
        return Answer("passed", f"{proven['runs'][0]['sentence']}; p50 {wall['p50']:.3g} ms", kept)
    except (KeyError, IndexError, TypeError) as error:
        return Answer(
            "crashed", f"the reports of verify and bench are not as expected: {type(error).__name__}: {error}"
        )
