"""How long one run takes, over several processes, with its control: the figure that can be compared with later runs.

    level    = exp( mean over processes of  (l₁ + l₂) / 2 )
    control  = exp( mean over processes of   l₁ − l₂ )           a model against itself: 1 but for luck

with l the logarithm of a block's time, by the median over rounds.

One process has its own luck for as long as it lives, such as where its memory happens to lie: medians of two processes
differ by more than either's own interval says. So the interval here is that of the mean over processes (Student's).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.latency.comparison import Blocks, Rules, clock_of, run_process
from attn_export.deploy_tests.latency.statistics import Interval, ratio
from attn_export.deploy_tests.latency.timed_model import TimedModel
from attn_export.deploy_tests.machine.emulated import refuse_to_measure
from attn_export.types import Summarised


@dataclass(frozen=True)
class Repeated(Summarised):
    """The time of one run over several processes.

    Attributes:
        time_ms: with the interval of the mean over processes.
        control: the ratio of two sessions of the same model in each process.
        clock: what was counted.
        processes_ms: the time in each process.
    """

    time_ms: Interval
    control: Interval
    clock: str
    processes_ms: tuple[float, ...]

    def summary(self) -> str:
        """Say the time with its interval, and the control."""
        many = f"{len(self.processes_ms)} fresh processes"
        return f"{self.time_ms} ms over {many}, A/A control {self.control} ({self.clock})"

    def to_dict(self) -> dict[str, Any]:
        """Give plain data."""
        return asdict(self)


def repeat_latency(
    model: TimedModel,
    cases: Path,
    *,
    case: int = 0,
    rules: Rules | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Repeated:
    """Time one model in fresh processes, in each of which two sessions of it take turns.

    Raises:
        BackendError: it does not load or run.
        InconclusiveError: the processor is emulated.
    """
    refuse_to_measure()
    rule = rules or Rules()
    clock = clock_of((model.backend,), rule.threads)
    found: list[Blocks] = []
    for seed in range(max(2, rule.processes)):
        found.append(run_process((model, model), cases, case, rule, clock, seed))
        progress(f"{seed + 1} fresh processes")
    return summarise(found, clock)


def summarise(processes: Sequence[Blocks], clock: str) -> Repeated:
    """Reach the figures over the rounds of each process: in each round, the block times in seconds or nanoseconds.

    >>> summarise([[[1e6, 1e6]] * 3, [[1e6, 1e6]] * 3], "CPU time").time_ms.estimate
    1.0
    """
    logs = [[[math.log(time) for time in row] for row in rounds] for rounds in processes]
    levels = [statistics.median(statistics.fmean(row) for row in rounds) for rounds in logs]
    controls = [statistics.median(row[0] - row[1] for row in rounds) for rounds in logs]
    level = ratio([value - math.log(1e6) for value in levels])
    return Repeated(level, ratio(controls), clock, tuple(math.exp(value) / 1e6 for value in levels))
