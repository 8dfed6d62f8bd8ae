"""Energy of one inference with its interval, where the machine can tell energy at all.

The model runs in blocks that are long enough for the sensor. Each block gives one figure, energy over inferences; the
blocks give a mean with its interval. It is the energy of all that the sensor covers while the model runs, idle draw
included: what that is without the model is measured before, and stated beside it.
"""

from __future__ import annotations

import math
import statistics as plain_statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from attn_export.deploy_tests.backend import Run
from attn_export.deploy_tests.latency.statistics import Interval, mean
from attn_export.deploy_tests.machine import energy
from attn_export.deploy_tests.machine.energy import Source
from attn_export.types import Feeds, JsonDict

#: Blocks that are measured: an interval of their mean needs some.
BLOCKS = 8
#: Seconds between two readings of a sensor of power: one over I2C takes a millisecond of a processor.
_PERIOD = 0.1


@dataclass(frozen=True)
class EnergyUse:
    """What was measured.

    Attributes:
        source: which sensor: ``rapl``, ``ina3221`` or ``battery``.
        covers: which part of the machine it covers.
        joules: of one inference.
        idle_watts: what that part takes while nothing runs; None where it was not said.
        blocks_j: the figure of each block.
        inferences: how many ran.
        duration_s: seconds of all blocks.
    """

    source: str
    covers: str
    joules: Interval
    idle_watts: float | None
    blocks_j: tuple[float, ...]
    inferences: int
    duration_s: float

    def to_dict(self) -> JsonDict:
        """Give plain data."""
        return asdict(self)

    def summary(self) -> str:
        """Say it in a line."""
        low, high = (1000 * value for value in (self.joules.low, self.joules.high))
        idle = "" if self.idle_watts is None else f"; idle {self.idle_watts:.3g} W"
        return (
            f"energy {1000 * self.joules.estimate:.3g} mJ [{low:.3g}, {high:.3g}] an inference, of {self.covers}"
            f" ({self.source}){idle}"
        )


def measure_energy(run: Run, feeds: Feeds, source: Source, *, blocks: int = BLOCKS) -> EnergyUse | None:
    """Run a model in blocks beside its sensor; None where the sensor fell silent in one of them."""
    idle = _spent(source, lambda: time.sleep(source.block))
    figures: list[float] = []
    total, began = 0, time.perf_counter()
    for _ in range(blocks):
        done = [0]

        def work(done: list[int] = done) -> None:
            until = time.perf_counter() + source.block
            while time.perf_counter() < until:
                run(feeds)
                done[0] += 1

        spent = _spent(source, work)
        if spent is None or not spent[0] > 0:
            return None
        figures.append(spent[0] / done[0])
        total += done[0]
    seconds = time.perf_counter() - began
    rest = idle[0] / idle[1] if idle and math.isfinite(idle[0]) else None
    return EnergyUse(source.name, source.covers, mean(figures), rest, tuple(figures), total, seconds)


def _spent(source: Source, work: Callable[[], None]) -> tuple[float, float] | None:
    """Do the work, and give joules and seconds; None where the source did not say."""
    if source.counts:
        before, began = energy.counters(source), time.perf_counter()
        work()
        seconds, after = time.perf_counter() - began, energy.counters(source)
        found = energy.joules(source, before, after)
        return None if found is None else (found, seconds)
    readings: list[float | None] = [energy.watts(source)]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_PERIOD):
            readings.append(energy.watts(source))

    thread = threading.Thread(target=watch, daemon=True)
    began = time.perf_counter()
    thread.start()
    try:
        work()
    finally:
        ended.set()
        thread.join()
    seconds = time.perf_counter() - began
    known = [value for value in readings if value is not None]
    return (plain_statistics.fmean(known) * seconds, seconds) if len(known) == len(readings) else None
