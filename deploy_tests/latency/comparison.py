"""Which of two models is faster, and by how much: interleaved, over several processes, with a control.

In each process four sessions are opened, two of the candidate (C₁ C₂) and two of the baseline (B₁ B₂). They take
turns in blocks of about 50 ms, in random order. With l the logarithm of a block's time, each process gives

    effect  = (l C₁ + l C₂ − l B₁ − l B₂) / 2      what is asked
    control = (l C₁ − l C₂ + l B₁ − l B₂) / 2      a model against itself: 0 but for luck

Both hold the same four blocks with the same weights, so luck (of the machine, and of where the memory happens to lie,
which is why one process is not enough) strikes both alike: the control is as wide as the effect's own noise, and is
uncorrelated with it. So how long to go on may be decided by the control alone, without bending the answer.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_export.deploy_tests import backends
from attn_export.deploy_tests.latency.statistics import Interval, ratio
from attn_export.deploy_tests.latency.timed_model import TimedModel
from attn_export.deploy_tests.machine.emulated import refuse_to_measure
from attn_export.errors import BackendError, InconclusiveError
from attn_export.process import activity, children
from attn_export.types import Summarised

#: How far from 1 the whole interval of the control may lie: what cannot matter cannot make a comparison void.
SLACK = 0.01
#: The half-width of the control at which measuring may stop: a difference of 3 % is then plain.
FINE = 0.01
#: How many times the processes of the rules may be run where it is noisy.
MOST = 3
#: From how many widths of the control on a difference needs no more processes.
PLAIN = 4.0

CPU, WALL, PINNED = "CPU time", "wall time", "wall time on pinned cores"

Blocks = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Rules:
    """Processes (three times as many where it is noisy), rounds in each, seconds a block, threads of the backend."""

    processes: int = 5
    rounds: int = 10
    block: float = 0.05
    threads: int = 1


@dataclass(frozen=True)
class LatencyComparison(Summarised):
    """The ratio of the candidate's time to the baseline's, its control, and both for each process."""

    ratio: Interval
    control: Interval
    clock: str
    pairs: tuple[tuple[float, float], ...]

    @property
    def void(self) -> bool:
        """Whether the control says that this machine, now, cannot compare."""
        return self.control.low > 1 + SLACK or self.control.high < 1 - SLACK

    @property
    def resolution(self) -> float:
        """The smallest difference, as a share, that this comparison could have shown."""
        return math.exp(max(_doubt(self.control), _half_width(self.ratio))) - 1

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, ``no difference shown``, or ``void``."""
        if self.void:
            return "void"
        if abs(math.log(self.ratio.estimate)) <= _doubt(self.control) or self.ratio.low <= 1 <= self.ratio.high:
            return "no difference shown"
        return "faster" if self.ratio.estimate < 1 else "slower"

    def summary(self) -> str:
        """Say who is faster, with the intervals of the ratio and of the control."""
        said = "the candidate is " + self.verdict if self.verdict in ("faster", "slower") else self.verdict
        how = f"{self.clock}, {len(self.pairs)} process pairs"
        return f"time ratio {self.ratio}, A/A control {self.control}: {said} ({how})"

    def outcome(self) -> str:
        """Say the ratio, its control and how both were measured, whatever the two are called."""
        how = f"{len(self.pairs)} process pairs, {self.clock}"
        return f"{self.ratio}, {self.verdict}; control {self.control}, {how}"

    def refuse_void(self) -> None:
        """Refuse to report a ratio where the control says that this machine, now, cannot compare.

        Raises:
            InconclusiveError: it is so.
        """
        if self.void:
            raise InconclusiveError(
                f"no latency ratio: expected an A/A run of 1.0, got {self.control}; use a quieter machine"
            )

    def inconclusive(self, asked: float) -> bool:
        """Whether nothing was shown, and a difference of ``asked`` (a share) could have gone unseen."""
        return self.void or (self.verdict == "no difference shown" and self.resolution > asked)

    def to_dict(self, candidate: str, baseline: str) -> dict[str, Any]:
        """Figures and raw ratios as plain data, and what the two are called."""
        names = {"candidate": candidate, "baseline": baseline}
        return {**names, **asdict(self), "verdict": self.verdict, "resolution": self.resolution}


def compare_latency(
    candidate: Path | TimedModel,
    baseline: Path | TimedModel,
    cases: Path,
    *,
    case: int = 0,
    backend: str = backends.DEFAULT,
    rules: Rules | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> LatencyComparison:
    """Time two models of one contract against each other, each process in a fresh interpreter.

    A path is a model that is run on ``backend``; the two may be of different formats on different runtimes.

    Raises:
        BackendError: a model does not load or run.
        InconclusiveError: the processor is emulated.
    """
    refuse_to_measure()
    rule = rules or Rules()
    one, other = (TimedModel(side, backend) if isinstance(side, Path) else side for side in (candidate, baseline))
    clock = clock_of((one.backend, other.backend), rule.threads)

    def run(seed: int) -> Blocks:
        return run_process((one, one, other, other), cases, case, rule, clock, seed)

    return repeat_until_clear(run, rule, progress, clock)


def run_process(models: Sequence[TimedModel], cases: Path, case: int, rules: Rules, clock: str, seed: int) -> Blocks:
    """Let sessions of these models take turns in a fresh interpreter: the median time of each one's block, by round.

    Raises:
        BackendError: a model does not load or run.
    """
    first, last = models[0], models[-1]
    request = {
        "models": [model.to_dict() for model in models],
        "cases": str(cases),
        "case": case,
        "rules": asdict(rules),
        "clock": clock,
        "cores": _cores(rules.threads, seed) if clock == PINNED else [],
        "seed": seed,
    }
    who = " and ".join(dict.fromkeys((first.backend, last.backend)))
    with activity.doing("measuring two models against each other", who=who, model=first.path):
        done = children.run("attn_export.deploy_tests.latency.comparison_worker", json.dumps(request))
    if done.returncode:
        why = children.ending(done.returncode, done.stderr)
        raise BackendError(f"measuring {first.path} against {last.path} on {who} broke: {why}")
    rounds: Blocks = json.loads(done.stdout.splitlines()[-1])
    return rounds


def clock_of(names: Sequence[str], threads: int) -> str:
    """Name the clock that counts the work of all these backends alike.

    CPU time is quieter, where one thread of this process does all of it. Elsewhere it is wall time, and the process is
    held to as many cores as there are threads: a runtime that starts more of them gains nothing by it.
    """
    if threads == 1 and all(backends.traits(name).runs_on_own_threads for name in names):
        return CPU
    return PINNED if _cores(threads, 0) else WALL


def _cores(threads: int, seed: int) -> list[int]:
    """Choose the cores of one process, others for the next; none where all that there are would be taken."""
    known = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [known[(seed * threads + i) % len(known)] for i in range(threads)] if threads < len(known) else []


def repeat_until_clear(
    run_process: Callable[[int], Blocks],
    rules: Rules | None = None,
    progress: Callable[[str], None] = lambda _: None,
    clock: str = CPU,
) -> LatencyComparison:
    """Run processes until the control is fine enough, at most three times as many as the rules say.

    ``run_process(seed)`` gives the rounds of one process: in each, the block times of C₁ C₂ B₁ B₂.
    """
    rule = rules or Rules()
    pairs: list[tuple[float, float]] = []
    while True:
        pairs.append(contrasts(run_process(len(pairs))))
        progress(f"{len(pairs)} process pairs")
        if len(pairs) < max(2, rule.processes):
            continue
        result = summarise(pairs, clock)
        if len(pairs) >= MOST * rule.processes or _enough(result):
            return result


def summarise(pairs: Sequence[tuple[float, float]], clock: str = CPU) -> LatencyComparison:
    """Reach the verdict over the (effect, control) logarithms of processes."""
    return LatencyComparison(
        ratio([effect for effect, _ in pairs]),
        ratio([control for _, control in pairs]),
        clock,
        tuple((math.exp(effect), math.exp(control)) for effect, control in pairs),
    )


def contrasts(rounds: Blocks) -> tuple[float, float]:
    """Effect and control of one process: the median over its rounds, so that a third of them may be disturbed.

    >>> contrasts([[2.0, 2.0, 1.0, 1.0]] * 9 + [[900.0, 2.0, 1.0, 1.0]])[1]
    0.0
    """
    logs = [[math.log(time) for time in row] for row in rounds]
    return (
        statistics.median((c1 + c2 - b1 - b2) / 2 for c1, c2, b1, b2 in logs),
        statistics.median((c1 - c2 + b1 - b2) / 2 for c1, c2, b1, b2 in logs),
    )


def _enough(comparison: LatencyComparison) -> bool:
    if comparison.void:
        return False
    plain = abs(math.log(comparison.ratio.estimate)) > PLAIN * max(
        _doubt(comparison.control), _half_width(comparison.ratio)
    )
    return plain or _half_width(comparison.control) <= FINE


def _doubt(control: Interval) -> float:
    return max(abs(math.log(control.low)), abs(math.log(control.high)))


def _half_width(interval: Interval) -> float:
    return math.log(interval.high / interval.low) / 2
