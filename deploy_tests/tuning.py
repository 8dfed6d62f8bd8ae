"""Find faster settings of a runtime for one model, and confirm them: half of the time searches, half is a fresh test.

What is tried are threads, the settings that a backend calls its own, and other runtimes for which the bundle has the
same model in the same precision. What is found is proven with the bundle's own parity before it is offered, and then
held against the usual settings in process pairs with a control, as any two models are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from attn_export import bundle
from attn_export.bundle import Artifact, Bundle
from attn_export.deploy_tests import backends, open_bundle
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.latency import halving
from attn_export.deploy_tests.latency.comparison import (
    WALL,
    Blocks,
    LatencyComparison,
    Rules,
    contrasts,
    run_process,
    summarise,
)
from attn_export.deploy_tests.latency.timed_model import TimedModel
from attn_export.deploy_tests.machine.emulated import refuse_to_measure
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import AttnExportError, BackendError
from attn_export.types import JsonDict

#: Process pairs without which an interval says next to nothing, however long each takes.
LEAST = 4
#: Seconds of a block, as in comparisons.
_BLOCK = 0.05


@dataclass(frozen=True)
class Setting:
    """One way to run a model.

    Attributes:
        artifact: of the bundle.
        backend: that runs it.
        threads: of the runtime.
        settings: what differs from the backend's usual ones.
    """

    artifact: str
    backend: str
    threads: int
    settings: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Say it in one line.

        >>> Setting("model", "toy", 2, {"mode": "parallel"}).summary()
        'model@toy, 2 threads, mode=parallel'
        """
        more = "".join(f", {name}={value}" for name, value in self.settings.items())
        return f"{self.artifact}@{self.backend}, {self.threads} thread{'s' * (self.threads > 1)}{more}"

    def to_dict(self) -> JsonDict:
        """Give plain data."""
        return {
            "artifact": self.artifact,
            "backend": self.backend,
            "threads": self.threads,
            "settings": dict(self.settings),
        }


@dataclass(frozen=True)
class Tuned:
    """What the search and the test gave.

    Attributes:
        usual: what everything is held against.
        best: the fastest that is right; the usual one where nothing was faster.
        comparison: of the best with the usual one, on time that the search has not seen; None where they are one.
        tried: how many ways were tried.
        wrong: those that were faster and failed parity, or did not run, each with the reason.
        lines: Python by which a program opens such a session; empty where the backend has no settings.
    """

    usual: Setting
    best: Setting
    comparison: LatencyComparison | None
    tried: int
    wrong: Mapping[str, str]
    lines: tuple[str, ...] = ()

    @property
    def confirmed(self) -> bool:
        """Whether the best is surely faster: its interval excludes 1, and it lies beyond what the control shows."""
        return self.comparison is not None and self.comparison.verdict == "faster"

    def to_dict(self) -> dict[str, Any]:
        """Give plain data."""
        compared = self.comparison.to_dict(self.best.summary(), self.usual.summary()) if self.comparison else None
        return {
            "usual": self.usual.to_dict(),
            "best": self.best.to_dict(),
            "confirmed": self.confirmed,
            "comparison": compared,
            "tried": self.tried,
            "wrong": dict(self.wrong),
            "lines": list(self.lines),
        }


def tune(
    whole: Bundle,
    usual: Setting,
    counts: Sequence[int],
    seconds: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Tune a model of a bundle in about as many seconds; ``counts`` are the numbers of threads to try.

    Raises:
        UnknownNameError, BackendMissingError, BackendError: the usual way does not run.
        InconclusiveError: the processor is emulated.
    """
    refuse_to_measure()
    artifact = whole.artifact(usual.artifact)
    index = open_bundle.narrowed(whole, artifact).whole(whole.cases)
    cases, inputs = whole.path / bundle.CASES, whole.cases[index].inputs

    def model(one: Setting) -> TimedModel:
        of = whole.artifact(one.artifact)
        return TimedModel(
            of.path, one.backend, of.precision, whole.inputs, whole.outputs, one.threads, dict(one.settings)
        )

    def turns(these: Sequence[Setting], rounds: int, seed: int) -> Blocks:
        return run_process([model(one) for one in these], cases, index, Rules(1, rounds, _BLOCK), WALL, seed)

    def prove(one: Setting) -> str:
        try:
            found = verify(whole, one.backend, threads=one.threads, artifact=one.artifact, settings=one.settings)
        except AttnExportError as error:
            return str(error)
        return "" if found.ok else found.summary()

    ways = [one for one in candidates(whole, usual, counts) if _takes(whole, one, inputs)]
    found = decide(usual, ways, seconds, turns, prove, progress=progress)
    bundle.unchanged(whole)  # each process has opened the models by itself
    best = found.best
    of = whole.artifact(best.artifact)
    options = open_bundle.options_for(whole, of, best.threads, settings=best.settings)
    return replace(found, lines=backends.session_lines(best.backend, of.path, options))


def candidates(whole: Bundle, usual: Setting, counts: Sequence[int]) -> Iterator[Setting]:
    """Give every way to run the model in its precision, the usual one first and once."""
    yield usual
    precision = whole.artifact(usual.artifact).precision
    for artifact in whole.artifacts:
        if artifact.precision != precision:
            continue  # another precision gives other outputs
        for backend in _here(artifact):
            for threads in counts:
                for settings in backends.tunings(backend, threads):
                    one = Setting(artifact.name, backend, threads, settings)
                    if one != usual:
                        yield one


def _here(artifact: Artifact) -> Iterator[str]:
    for name in BACKENDS:
        if artifact.kind in backends.traits(name).accepts and backends.missing(name) is None:
            yield name


def _takes(whole: Bundle, one: Setting, inputs: Mapping[str, Any]) -> bool:
    return open_bundle.narrowed(whole, whole.artifact(one.artifact)).takes(inputs)


def decide(
    usual: Setting,
    ways: Sequence[Setting],
    seconds: float,
    turns: Callable[[Sequence[Setting], int, int], Blocks],
    prove: Callable[[Setting], str],
    *,
    now: Callable[[], float] = time.monotonic,
    progress: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Search in the first half of the time, and test in the second.

    Args:
        usual: what everything is held against.
        ways: what is tried, the usual one among them.
        seconds: for both halves.
        turns: lets sessions take turns in a fresh process, for so many rounds, by a seed.
        prove: says why a way is wrong, or nothing.
        now: the clock.
        progress: what is told of how it goes.
    """
    wrong = dict[str, str]()

    @cache
    def is_right(number: int) -> bool:
        if why := prove(ways[number]):
            wrong[ways[number].summary()] = why
        return not why

    def measure(these: Sequence[int], share: float, seed: int) -> Blocks:
        progress(f"{len(these)} ways in turns")
        return turns([ways[one] for one in these], max(3, round(share / (len(these) * _BLOCK)) - 1), seed)

    if why := prove(usual):
        raise AttnExportError(f"the usual way, {usual.summary()}, is what others are held against, and {why}")
    numbers = _of_runtimes_that_are_right(ways, is_right)
    progress(f"{len(numbers)} of {len(ways)} ways are on runtimes that are right")
    try:
        ordered = halving.search(numbers, seconds / 2, measure)
    except BackendError:  # one of them, and nobody can say which, took the process of all others with it
        ordered = halving.search([one for one in numbers if is_right(one)], seconds / 2, measure)
    best = next((ways[one] for one in ordered if ways[one] == usual or is_right(one)), usual)
    if best == usual:
        return Tuned(usual, best, None, len(ways), wrong)
    until, pairs = now() + seconds / 2, list[tuple[float, float]]()
    while len(pairs) < LEAST or now() < until:
        # Seeds that the search has not used: other processes, other places of the memory.
        pairs.append(contrasts(turns((best, best, usual, usual), 10, 1000 + len(pairs))))
        progress(f"{len(pairs)} process pairs")
    return Tuned(usual, best, summarise(pairs, WALL), len(ways), wrong)


def _of_runtimes_that_are_right(ways: Sequence[Setting], is_right: Callable[[int], bool]) -> list[int]:
    """Prove one way of each model on each runtime, and leave the others out where that is wrong."""
    first: dict[tuple[str, str], int] = {}
    for number, one in enumerate(ways):
        first.setdefault((one.artifact, one.backend), number)
    right = {pair for pair, number in first.items() if is_right(number)}
    return [number for number, one in enumerate(ways) if (one.artifact, one.backend) in right]
