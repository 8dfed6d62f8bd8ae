"""One process of a comparison: open four sessions, let them take turns, print the time of every block."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from attn_export.bundle import read_cases
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import Run
from attn_export.deploy_tests.latency.comparison import CPU, Rules
from attn_export.deploy_tests.latency.statistics import percentile
from attn_export.deploy_tests.latency.timed_model import TimedModel
from attn_export.types import Feeds

#: Runs shorter than this are timed several at once: reading the clocks would be part of the figure.
SHORTEST = 200e-6


def interleave(runs: Sequence[Run], feeds: Feeds, rules: Rules, seed: int, clock: str = CPU) -> list[list[float]]:
    """Time several runs in blocks, in a random order each round: for each round, the median time of each block.

    CPU time is quieter than wall time, and equals the work where one thread of this process does it. The length of a
    block is counted by the same clock: on a loaded machine it takes longer, and holds as many runs as on a quiet one.
    """
    order = random.Random(seed)  # noqa: S311  # an order of turns, no secret
    now = time.process_time_ns if clock == CPU else time.perf_counter_ns
    pace = [_pace(run, feeds, rules.block, now) for run in runs]
    rounds: list[list[float]] = []
    for _ in range(rules.rounds):
        row = [0.0] * len(runs)
        for index in order.sample(range(len(runs)), len(runs)):
            row[index] = _block(runs[index], feeds, rules.block, pace[index], now)
        rounds.append(row)
    return rounds


def _block(run: Run, feeds: Feeds, block: float, pace: float, now: Callable[[], int]) -> float:
    at_once = max(1, math.ceil(SHORTEST / pace))
    samples = []
    for _ in range(max(1, round(block / (pace * at_once)))):
        began = now()
        for _ in range(at_once):
            run(feeds)
        samples.append((now() - began) / at_once)
    return percentile(samples, 50)


def _pace(run: Run, feeds: Feeds, block: float, now: Callable[[], int]) -> float:
    """Warm up, and say how many seconds a run takes."""
    began, count = now(), 0
    while count < 3 or now() - began < block * 1e9:
        run(feeds)
        count += 1
    return (now() - began) / count / 1e9


def serve(request: dict[str, Any]) -> list[list[float]]:
    """Run one process: what the child interpreter does."""
    if cores := request["cores"]:
        os.sched_setaffinity(0, cores)  # before a runtime is loaded: each counts the cores when it is
    rules = Rules(**request["rules"])
    feeds = read_cases(Path(request["cases"]))[request["case"]].inputs
    models = [TimedModel.from_dict(model) for model in request["models"]]
    with ExitStack() as stack:
        # The order in which sessions take their memory must not favour one of them.
        places = random.Random(request["seed"]).sample(range(len(models)), len(models))  # noqa: S311
        opened = {i: stack.enter_context(_opened(models[i], rules.threads, feeds)) for i in places}
        return interleave([opened[i] for i in range(len(models))], feeds, rules, request["seed"], request["clock"])


def _opened(model: TimedModel, threads: int, feeds: Feeds) -> AbstractContextManager[Run]:
    return backends.opened(model.backend, model.path, model.options(threads, feeds))


if __name__ == "__main__":
    print(json.dumps(serve(json.loads(sys.argv[1]))))  # noqa: T201  # the answer to the parent process
