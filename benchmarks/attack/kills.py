"""Kill runs at random moments and at the ends of their stages, and look at what is left.

    python -m benchmarks.attack.kills --count 100

SIGKILL, SIGTERM and SIGINT, to the parent alone, to its group (as a terminal's ^C does) and to its child alone, during
the main job, plain and fused, and a sweep; half of the time over an older bundle. Afterwards there is no half bundle,
no older one is lost, the exit code and the sentence are those of that signal, nothing of the run lives, and after one
more run nothing is left over. Then come the straits (``straits``): full disks, read-only folders, no HOME and so on.
Exits with 1 where anything else was met.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.attack import originals, straits
from benchmarks.attack.runs import JOBS, PROGRAM, HarmedRun, RunFolder, identity, wait

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WHOM = ("parent", "group", "child")
WORDS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}
#: Share of the kills that come right after a stage ended.
AT_STAGES = 0.4
#: Seconds until a run that was told to stop must be over.
PATIENCE = 60.0


@dataclass(frozen=True)
class Kill:
    """One kill: what, how, whom, and when: a share of the run's length, or after so many lines of progress."""

    job: HarmedRun
    number: signal.Signals
    whom: str
    older: bool
    moment: float | None
    lines: int = 0

    def __str__(self) -> str:
        when = f"at {self.moment:.0%}" if self.moment is not None else f"after stage {self.lines}"
        over = " over an older bundle" if self.older else ""
        return f"{self.number.name} to the {self.whom} of {self.job.name} {when}{over}"


@dataclass
class KillFinding:
    """What was found after a kill: faults in words, none where all is well."""

    kill: Kill
    code: int | None = None
    faults: list[str] = field(default_factory=list)
    late: bool = False


def plan(count: int, jobs: Sequence[str], seed: int) -> Iterator[Kill]:
    """Kills such that every signal meets everyone in every job, as far as the count goes."""
    rng = Random(seed)  # noqa: S311
    for index in range(count):
        number = SIGNALS[index % 3]
        whom = WHOM[index // 3 % 3]
        job = JOBS[jobs[index // 9 % len(jobs)]]
        older = rng.random() < 0.5
        if rng.random() < AT_STAGES:
            yield Kill(job, number, whom, older, None, rng.randint(1, 5))
        else:
            yield Kill(job, number, whom, older, rng.random())


def length(job: HarmedRun, honest: Path, folder: Path, program: Sequence[str] = PROGRAM) -> float:
    """Seconds of a run that nobody kills.

    Raises:
        RuntimeError: it does not end well.
    """
    place = RunFolder(folder / f"length-{job.name}", honest)
    began = time.monotonic()
    code = wait(place.start(job.line(), program), 600)
    if code:
        raise RuntimeError(f"{job.name} ends with {code} where nobody kills it: {place.said()[-500:]}")
    return time.monotonic() - began


def carry_out(
    kill: Kill, seconds: float, honest: Path, root: Path, program: Sequence[str] = PROGRAM, early: float = 0.0
) -> KillFinding:
    """Kill one run and look at everything; within ``early`` seconds the interpreter may not have come to our code."""
    found, place = KillFinding(kill), RunFolder(root, honest)
    target = place.work / kill.job.target
    if kill.older and kill.job.name != "sweep":
        shutil.copytree(honest / "bundle", target)
    before = identity(target) if kill.job.name != "sweep" else ""
    began = time.monotonic()
    process = place.start(kill.job.line(), program)
    _await_moment(kill, seconds, process, place)
    if process.poll() is not None:
        found.late = True
    else:
        _send(kill, process)
    early = early if time.monotonic() - began < early else 0.0
    found.code = wait(process, PATIENCE)
    if found.code is None:
        found.faults.append(f"it still runs {PATIENCE:.0f} s later")
    if survivors := place.survivors():
        found.faults.append(f"{len(survivors)} processes outlive it")
    process.wait()
    if not found.late:
        found.faults += _words(kill, found.code, place.said(), bool(early))
    found.faults += _bundles(kill, before, target, found.code)
    code = wait(place.start(kill.job.line(again=True), program), 600)
    if code:
        found.faults.append(f"the next run ends with {code}: {place.said()[-200:]}")
    if litter := place.litter(target):
        found.faults.append(f"left over after the next run: {', '.join(litter)}")
    if not found.faults:
        shutil.rmtree(root)
    return found


def _await_moment(kill: Kill, seconds: float, process: subprocess.Popen[bytes], place: RunFolder) -> None:
    deadline = time.monotonic() + (kill.moment * seconds if kill.moment is not None else 10 * seconds)
    while time.monotonic() < deadline and process.poll() is None:
        if kill.moment is None and place.said().count("\n") >= kill.lines:
            return
        time.sleep(0.003)


def _send(kill: Kill, process: subprocess.Popen[bytes]) -> None:
    if kill.whom == "group":
        os.killpg(process.pid, kill.number)
        return
    child = _child(process.pid) if kill.whom == "child" else None
    os.kill(child or process.pid, kill.number)


def _child(process: int) -> int | None:
    """Find the child that does the work; None where there is none yet."""
    try:
        words = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(words[0]) if words else None


def _words(kill: Kill, code: int | None, said: str, early: bool) -> list[str]:
    """Say what is wrong with how it ended."""
    last = said.strip().splitlines()[-1] if said.strip() else ""
    if code == 0 or (early and _not_ours_yet(code, said)):
        return []  # it was at its end already, or the interpreter had not come to our code
    if "Traceback" in said:
        return [f"a traceback: {last}"]
    if kill.number == signal.SIGKILL and kill.whom != "child":
        return [] if code == -signal.SIGKILL else [f"exit code {code}, wanted -9"]
    if kill.number == signal.SIGKILL:
        fine = code == -signal.SIGKILL or (code == 3 and "died by SIGKILL" in last)
        return [] if fine else [f"exit code {code}, wanted 3 and who died: {last}"]
    wanted = 128 + kill.number
    if code != wanted:
        return [f"exit code {code}, wanted {wanted}: {last}"]
    return [] if WORDS[kill.number] in last else [f"no word of it being {WORDS[kill.number]}: {last!r}"]


def _not_ours_yet(code: int | None, said: str) -> bool:
    """Whether the signal met the bare interpreter, where nobody can do anything."""
    if code in (-signal.SIGTERM, -signal.SIGINT) and not said.strip():
        return True
    return code in (-signal.SIGINT, 130, 1) and "KeyboardInterrupt" in said and "supervisor" not in said


def _bundles(kill: Kill, before: str, target: Path, code: int | None) -> list[str]:
    """Say what is wrong with the bundles."""
    if kill.job.name == "sweep":
        folders = [path for path in target.glob("*") if path.is_dir() and not path.name.startswith(".")]
        return [f"{path.name} is {state}" for path in folders if (state := identity(path)).startswith("not whole")]
    now = identity(target)
    if now.startswith("not whole"):
        return [f"the bundle is {now}"]
    if before and not now:
        return ["the older bundle is gone"]
    if code == 0 and (not now or now == before):
        return ["it ended with 0 and wrote no bundle"]
    return []


def run(
    count: int,
    jobs: Sequence[str],
    seed: int,
    folder: Path,
    honest: Path,
    program: Sequence[str] = PROGRAM,
    workers: int = 2,
) -> list[KillFinding]:
    """Carry out ``count`` kills."""
    early = length(HarmedRun("version", ("--version",)), honest, folder, program)
    seconds = {name: length(JOBS[name], honest, folder, program) for name in jobs}
    kills = list(plan(count, jobs, seed))

    def one(item: tuple[int, Kill]) -> KillFinding:
        index, kill = item
        found = carry_out(kill, seconds[kill.job.name], honest, folder / str(index), program, early)
        if found.faults:
            print(f"{index}: {kill}: {'; '.join(found.faults)}", file=sys.stderr)
        return found

    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(one, enumerate(kills)))


def table(found: Sequence[KillFinding]) -> str:
    """Kills by job and signal, and what was found."""
    lines = ["| job | signal | to | kills | too late | exit codes | faults |", "|---|---|---|---|---|---|---|"]
    groups: dict[tuple[str, str, str], list[KillFinding]] = {}
    for item in found:
        groups.setdefault((item.kill.job.name, item.kill.number.name, item.kill.whom), []).append(item)
    for (job, number, whom), items in groups.items():
        codes = Counter(str(item.code) for item in items if not item.late)
        said = ", ".join(f"{code} ×{times}" for code, times in codes.items())
        faults = sum(bool(item.faults) for item in items)
        late = sum(item.late for item in items)
        lines.append(f"| {job} | {number} | {whom} | {len(items)} | {late} | {said} | {faults} |")
    return "\n".join(lines)


def main() -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument(
        "--job", action="append", choices=tuple(JOBS), help="repeat for several; all but graph by default"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-straits", dest="straits", action="store_false", help="only kills")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--program", nargs="+", default=PROGRAM, help="what is killed instead of the command line")
    options = parser.parse_args()
    honest = originals.folder()
    jobs = options.job or ["main", "fused", "sweep"]
    folder = Path(tempfile.mkdtemp(prefix="attack-kills-"))
    found = run(options.count, jobs, options.seed, folder, honest, options.program, options.workers)
    print(table(found))
    wrong = [item for item in found if item.faults]
    print(f"\n{len(found)} kills, {sum(item.late for item in found)} too late, {len(wrong)} with faults")
    for item in wrong:
        print(f"- {item.kill}: exit {item.code}: {'; '.join(item.faults)}")
    narrow: list[straits.StraitRow] = []
    if options.straits:
        narrow = straits.run(folder / "straits", honest, options.workers)
        print(f"\n{straits.table(narrow)}")
    bad = bool(wrong) or any(row.faults for row in narrow)
    if bad:
        print(f"what is left lies in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
