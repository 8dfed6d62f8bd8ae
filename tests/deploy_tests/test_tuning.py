"""Tuning by simulation: what the search finds is not believed, what is really faster is, and what is wrong is left."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from attn_export.deploy_tests import backends, tuning
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends.onnxruntime import tuning as settings
from attn_export.deploy_tests.latency import halving
from attn_export.deploy_tests.latency.comparison import Blocks
from attn_export.deploy_tests.tuning import Setting, Tuned
from attn_export.errors import AttnExportError, BackendError, UsageError
from tests.deploy_tests.test_conformance import write
from tests.tools.run import run

WAYS = [
    Setting("model", "toy", threads, {"level": level} if level else {})
    for threads in (1, 2)
    for level in ("", *"abcde")
]
USUAL = WAYS[0]


class World:
    """A machine with a clock of its own, on which each way has its speed, each process and block its luck."""

    def __init__(self, seed: int, fast: dict[str, float] | None = None, luck: float = 0.01) -> None:
        self.rng, self.fast, self.luck = random.Random(seed), fast or {}, luck
        self.time = 0.0
        self.asked: list[tuple[int, int]] = []

    def now(self) -> float:
        return self.time

    def turns(self, these: Sequence[Setting], rounds: int, seed: int) -> Blocks:
        self.asked.append((len(these), seed))
        self.time += 0.05 * len(these) * (rounds + 1)
        places = [self.rng.gauss(0, self.luck) + math.log(self.fast.get(one.summary(), 1.0)) for one in these]
        return [[math.exp(place + self.rng.gauss(0, 0.02)) for place in places] for _ in range(rounds)]


def speeds(*pairs: tuple[int, float]) -> dict[str, float]:
    return {WAYS[number].summary(): time for number, time in pairs}


def decide(world: World, prove: Callable[[Setting], str] = lambda _: "", seconds: float = 60.0) -> Tuned:
    return tuning.decide(USUAL, WAYS, seconds, world.turns, prove, now=world.now)


def test_the_winner_of_a_search_among_equals_is_not_believed() -> None:
    found = [decide(World(i)) for i in range(150)]
    assert sum(one.best != USUAL for one in found) > 100, "the search nearly always has a winner"
    assert sum(one.confirmed for one in found) <= 0.05 * 150


def test_the_search_itself_would_have_been_believed() -> None:
    """What the winner shows in the last round of the search is biased, which is why it is not used."""
    claimed = []
    for i in range(60):
        world = World(i)
        rounds = world.turns(WAYS, 20, 0)
        order = halving._ordered(list(range(len(WAYS))), rounds)
        claimed.append(sum(math.log(row[order[0]] / row[0]) for row in rounds) / len(rounds))
    assert sum(claimed) / len(claimed) < -0.01, "one per cent faster, of ways that are all the same"


def test_what_is_faster_is_found_and_confirmed() -> None:
    found = [decide(World(i, speeds((7, 0.8), (3, 0.9)))) for i in range(40)]
    assert all(one.best == WAYS[7] and one.confirmed for one in found)
    compared = [one.comparison for one in found if one.comparison]
    assert sum(one.ratio.low <= 0.8 <= one.ratio.high for one in compared) >= 34
    assert all(one.resolution < 0.1 for one in compared)


def test_the_usual_way_needs_no_test_against_itself() -> None:
    found = decide(World(0, speeds((0, 0.5))))
    assert (found.best, found.comparison, found.confirmed) == (USUAL, None, False)


def test_half_of_the_time_searches_and_half_tests_in_processes_of_their_own() -> None:
    world = World(0, speeds((7, 0.8)))
    decide(world, seconds=100)
    search = [one for one in world.asked if one[1] < 1000]
    test = [one for one in world.asked if one[1] >= 1000]
    assert [count for count, _ in search] == [12, 6, 3, 2]
    assert {count for count, _ in test} == {4}
    assert len({seed for _, seed in world.asked}) == len(world.asked)
    assert 80 <= world.time <= 110
    slow = World(0, speeds((7, 0.8)))
    decide(slow, seconds=0.1)
    assert len([one for one in slow.asked if one[1] >= 1000]) == tuning.LEAST


def test_a_way_that_is_wrong_is_never_offered() -> None:
    world = World(0, speeds((7, 0.5), (3, 0.8)))
    found = decide(world, lambda one: "parity fails" if one == WAYS[7] else "")
    assert (found.best, found.confirmed) == (WAYS[3], True)
    assert found.wrong == {WAYS[7].summary(): "parity fails"}


def test_a_runtime_that_is_wrong_is_not_even_timed() -> None:
    other = Setting("model", "other", 1)
    world = World(0, {other.summary(): 0.1})
    found = tuning.decide(USUAL, [*WAYS, other], 10, world.turns, lambda one: "wrong" * (one == other), now=world.now)
    assert found.best != other
    assert world.asked[0][0] == 12
    assert found.wrong == {other.summary(): "wrong"}


def test_a_way_that_breaks_the_process_of_all_is_left_out() -> None:
    world = World(0, speeds((5, 0.8)))

    def turns(these: Sequence[Setting], rounds: int, seed: int) -> Blocks:
        if WAYS[9] in these:
            raise BackendError("it crashed")
        return world.turns(these, rounds, seed)

    found = tuning.decide(USUAL, WAYS, 30, turns, lambda one: "it crashed" * (one == WAYS[9]), now=world.now)
    assert (found.best, found.confirmed) == (WAYS[5], True)
    assert WAYS[9].summary() in found.wrong


def test_a_usual_way_that_is_wrong_is_an_error() -> None:
    with pytest.raises(AttnExportError, match="usual way"):
        decide(World(0), lambda _: "parity fails")


def test_lines_make_the_session_that_was_measured() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    for threads in (1, 2):
        for one in backends.tunings("onnxruntime", threads):
            options = Options(threads, settings=one)
            lines = backends.session_lines("onnxruntime", Path("model.onnx"), options)
            space: dict[str, object] = {}
            exec("\n".join(lines[:-1]), space)
            made = space["options"]
            for name, value in settings.attributes(options, onnxruntime).items():
                assert getattr(made, name) == value
            for name, value in settings.ENTRIES.items():
                assert made.get_session_config_entry(name) == value  # type: ignore[attr-defined]
            compile(lines[-1], "line", "exec")
    assert backends.tunings("onnxruntime", 1)[0] == {}
    with pytest.raises(UsageError, match="expected a setting"):
        settings.chosen(Options(settings={"level": "over 9000"}))


def test_unoptimised_runs_are_so_whatever_is_usual() -> None:
    assert settings.chosen(Options(optimize=False))[settings.LEVEL] == "ORT_DISABLE_ALL"
    assert settings.chosen(Options())[settings.LEVEL] == "ORT_ENABLE_ALL"


def test_a_quick_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_BLOCK", 0.002)
    write(tmp_path / "bundle")
    done = run("bench", tmp_path / "bundle", "--tune", "--tune-time", "1", "--json", "-q")
    assert done.code in (0, 5), done.err
    found = done.json
    assert found["usual"] == {"artifact": "model", "backend": "onnxruntime", "threads": 1, "settings": {}}
    assert found["tried"] >= 4
    assert found["wrong"] == {}
    assert any("SessionOptions" in line for line in found["lines"])
    if found["comparison"]:
        assert found["comparison"]["clock"] == "wall time"
        assert found["confirmed"] == (found["comparison"]["verdict"] == "faster")
    assert "--tune: expected one bundle" in run("bench", tmp_path / "bundle", "--tune", "--profile").err
