"""Which of two models is faster, and by how much: interleaved, over several processes, with a control.

In each process three sessions are opened: the contender, the reference, and the reference again (its twin). They
take turns in blocks of about 50 ms, in random order. Each process gives one ratio contender/reference and one
twin/reference, which is 1 but for luck: of the machine, and of where the memory happens to lie, which is why one
process is not enough. Where the twin's interval leaves 1 by more than a hair the comparison is void.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_export.bundle import read_cases
from attn_export.deploy_tests.backend import Feeds, Options, Run
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.latency import timed
from attn_export.deploy_tests.statistics import Interval, percentile, ratio
from attn_export.errors import BackendError

#: How far from 1 the whole interval of the control may lie: what cannot matter cannot make a comparison void.
SLACK = 0.01


@dataclass(frozen=True)
class Rules:
    """How much to measure: processes, rounds in each, seconds a block, threads of the backend."""

    processes: int = 5
    rounds: int = 10
    block: float = 0.05
    threads: int = 1


@dataclass(frozen=True)
class Contest:
    """The ratio of the contender's time to the reference's, its control, and the ratios of each process."""

    ratio: Interval
    control: Interval
    clock: str
    pairs: tuple[tuple[float, float], ...]

    @property
    def void(self) -> bool:
        """Whether the control says that this machine, now, cannot compare."""
        return self.control.low > 1 + SLACK or self.control.high < 1 - SLACK

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, ``no difference shown``, or ``void``."""
        if self.void:
            return "void"
        doubt = max(abs(math.log(self.control.low)), abs(math.log(self.control.high)))
        if abs(math.log(self.ratio.estimate)) <= doubt or self.ratio.low <= 1 <= self.ratio.high:
            return "no difference shown"
        return "faster" if self.ratio.estimate < 1 else "slower"

    def as_json(self) -> dict[str, Any]:
        """Figures and raw ratios as plain data."""
        return {**asdict(self), "verdict": self.verdict}


def compete(
    contender: Path,
    reference: Path,
    cases: Path,
    *,
    case: int = 0,
    backend: str = "onnxruntime",
    rules: Rules | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Contest:
    """Time two models of one contract against each other, each process pair in a fresh interpreter.

    A void comparison is continued once with as many processes again, since one control in twenty is off by luck.

    Raises:
        BackendError: a model does not load or run.
    """
    rule = rules or Rules()
    pairs: list[tuple[float, float]] = []
    result = None
    for _ in range(2):
        for _ in range(rule.processes):
            pairs.append(_pair(contender, reference, cases, case, backend, rule, seed=len(pairs)))
            progress(f"{len(pairs)} process pairs")
        result = Contest(
            ratio([math.log(of) for of, _ in pairs]),
            ratio([math.log(twin) for _, twin in pairs]),
            "CPU time" if rule.threads == 1 else "wall time",
            tuple(pairs),
        )
        if not result.void:
            break
    assert result is not None
    return result


def _pair(
    contender: Path, reference: Path, cases: Path, case: int, backend: str, rules: Rules, seed: int
) -> tuple[float, float]:
    request = {
        "models": [str(contender), str(reference), str(reference)],
        "cases": str(cases),
        "case": case,
        "backend": backend,
        "rules": asdict(rules),
        "seed": seed,
    }
    command = [sys.executable, "-m", "attn_export.deploy_tests.contest", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"measuring {contender} against {reference} on {backend} broke: {last}")
    of, twin = json.loads(done.stdout.splitlines()[-1])
    return float(of), float(twin)


def interleave(runs: Sequence[Run], feeds: Feeds, rules: Rules, seed: int) -> list[float]:
    """Time several runs in blocks, in a random order each round; the median time of each, in nanoseconds."""
    order = random.Random(seed)  # noqa: S311  # an order of play, no secret
    clock = 1 if rules.threads == 1 else 0  # CPU time is quieter, and equals the work where one thread does it
    sizes = [_block_size(run, feeds, rules.block) for run in runs]
    samples: list[list[int]] = [[] for _ in runs]
    for _ in range(rules.rounds):
        for index in order.sample(range(len(runs)), len(runs)):
            samples[index] += [timed(runs[index], feeds)[clock] for _ in range(sizes[index])]
    return [percentile(values, 50) for values in samples]


def _block_size(run: Run, feeds: Feeds, block: float) -> int:
    """Warm up, and say how many runs fill a block."""
    began, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - began < block:
        run(feeds)
        count += 1
    return max(1, round(block * count / (time.perf_counter() - began)))


def _serve(request: dict[str, Any]) -> tuple[float, float]:
    """Play one process pair: what the child interpreter does."""
    rules = Rules(**request["rules"])
    backend = BACKENDS[request["backend"]]
    feeds = read_cases(Path(request["cases"]))[request["case"]].inputs
    with ExitStack() as stack:
        options = Options(threads=rules.threads)
        # The order in which sessions take their memory must not favour one of them.
        places = random.Random(request["seed"]).sample(range(3), 3)  # noqa: S311
        opened = {i: stack.enter_context(backend.open(Path(request["models"][i]), options)) for i in places}
        contender, reference, twin = interleave([opened[i] for i in range(3)], feeds, rules, request["seed"])
    return contender / reference, twin / reference


if __name__ == "__main__":
    print(json.dumps(_serve(json.loads(sys.argv[1]))))  # noqa: T201  # the answer to the parent process
