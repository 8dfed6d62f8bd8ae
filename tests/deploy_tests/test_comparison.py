"""The contest, by simulation: luck with a known spread is planted, and no clock is read."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attn_export.bundle import Case, write_cases
from attn_export.deploy_tests.latency import comparison_worker
from attn_export.deploy_tests.latency.comparison import (
    Blocks,
    LatencyComparison,
    Rules,
    compare_latency,
    contrasts,
    repeat_until_clear,
    summarise,
)
from attn_export.deploy_tests.latency.comparison_worker import interleave
from attn_export.deploy_tests.latency.statistics import Interval
from attn_export.errors import BackendError, InconclusiveError
from attn_export.process import children
from attn_export.types import Feeds

#: Spread of one session's time between processes: A/A ratios of 1.5 to 2.7 % were measured, which is √2 of these.
QUIET, USUAL, NOISY = 0.0075, 0.0106, 0.019
TRIALS = 200


def simulated(
    seed: int, effect: float, luck: float, *, rounds: float = 0.02, bias: float = 0.0
) -> Callable[[int], Blocks]:
    """A machine: each session has its luck for as long as its process lives, each block its own disturbance."""
    rng = random.Random(seed)

    def play(_: int) -> Blocks:
        c1, c2, r1, r2 = (rng.gauss(0, luck) for _ in range(4))
        places = (c1 + effect + bias, c2 + effect, r1 + bias, r2)
        played = []
        for _ in range(10):
            drift = rng.gauss(0, 0.2)  # the clock of the processor, common to a round
            burst = [rng.random() < 0.05 for _ in places]  # something else ran
            played.append(
                [
                    math.exp(p + drift + rng.gauss(0, rounds)) * (1.5 if b else 1)
                    for p, b in zip(places, burst, strict=True)
                ]
            )
        return played

    return play


def share(verdict: str, effect: float, luck: float, rules: Rules | None = None) -> float:
    return sum(repeat_until_clear(simulated(i, effect, luck), rules).verdict == verdict for i in range(TRIALS)) / TRIALS


@pytest.mark.parametrize("luck", [QUIET, USUAL])
def test_three_per_cent_slower_is_called_slower(luck: float) -> None:
    assert share("slower", math.log(1.03), luck) >= 0.95


def test_three_per_cent_slower_is_called_slower_on_a_noisy_machine_when_thorough() -> None:
    assert share("slower", math.log(1.03), NOISY, Rules(processes=8)) >= 0.95


def test_three_per_cent_faster_is_called_faster() -> None:
    assert share("faster", -math.log(1.03), USUAL) >= 0.95


@pytest.mark.parametrize("luck", [QUIET, USUAL, NOISY])
def test_a_model_against_itself_is_called_neither(luck: float) -> None:
    called = share("slower", 0, luck) + share("faster", 0, luck)
    assert called <= 0.05


def test_the_simulation_can_fail() -> None:
    assert share("slower", math.log(1.03), 0.06) < 0.5, "with so much luck nobody can see 3 %"


def test_effect_and_control_are_uncorrelated_and_equally_wide() -> None:
    pairs = np.array([contrasts(simulated(i, 0.03, USUAL)(0)) for i in range(1000)])
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.1
    assert pairs[:, 1].std() == pytest.approx(pairs[:, 0].std(), rel=0.1)
    assert pairs[:, 0].mean() == pytest.approx(0.03, abs=0.002)
    assert pairs[:, 1].mean() == pytest.approx(0, abs=0.002)


def test_a_place_that_is_always_slower_makes_it_void() -> None:
    results = [repeat_until_clear(simulated(i, 0, QUIET, bias=0.05)) for i in range(20)]
    assert all(result.void and result.verdict == "void" and result.inconclusive(0.5) for result in results)
    assert all(len(result.pairs) == 15 for result in results), "a void comparison goes on as long as it may"


def test_a_void_comparison_gives_no_ratio_and_another_does() -> None:
    fine = LatencyComparison(Interval(0.9, 0.89, 0.91), Interval(1.0, 0.99, 1.01), "CPU time", ())
    fine.refuse_void()
    void = LatencyComparison(fine.ratio, Interval(1.05, 1.03, 1.07), "CPU time", ())
    with pytest.raises(InconclusiveError, match=r"an A/A run of 1\.0, got 1\.050 \[1\.030, 1\.070\]") as caught:
        void.refuse_void()
    assert caught.value.exit_code == 5


def test_it_stops_early_where_it_is_quiet_and_goes_on_where_it_is_not() -> None:
    assert len(repeat_until_clear(simulated(0, 0, 0.001, rounds=0.001)).pairs) == 5
    assert len(repeat_until_clear(simulated(0, 0, 0.06)).pairs) == 15
    assert len(repeat_until_clear(simulated(0, 2.0, NOISY)).pairs) == 5, "a factor of seven needs no more"
    assert len(repeat_until_clear(simulated(0, 0, 0.001, rounds=0.001), Rules(processes=8)).pairs) == 8


def test_a_difference_inside_the_control_is_none() -> None:
    result = LatencyComparison(Interval(1.02, 1.01, 1.03), Interval(1.0, 0.97, 1.03), "CPU time", ())
    assert result.verdict == "no difference shown"
    assert result.resolution == pytest.approx(0.0309, abs=1e-3)
    assert result.inconclusive(0.03)
    assert not result.inconclusive(0.05), "5 % would have been seen"


def test_the_verdict_turns_with_the_sides() -> None:
    pairs = [(0.05 + e, c) for e, c in ((0.001, 0.002), (-0.002, -0.001), (0.001, 0.0), (0.0, 0.001))]
    assert summarise(pairs).verdict == "slower"
    assert summarise([(-e, c) for e, c in pairs]).verdict == "faster"


def test_blocks_are_interleaved_and_each_plays_once_a_round() -> None:
    played: list[int] = []

    def runner(index: int) -> Callable[[Feeds], dict[str, np.ndarray]]:
        def run(_: Feeds) -> dict[str, np.ndarray]:
            played.append(index)
            return {}

        return run

    rounds = interleave([runner(i) for i in range(4)], {}, Rules(rounds=5, block=0.001), seed=0, clock="wall time")
    assert len(rounds) == 5
    assert all(len(row) == 4 and min(row) > 0 for row in rounds)
    blocks = [a for a, b in zip(played, [*played[1:], -1], strict=True) if a != b][4:]
    assert len(set(itertools.pairwise(blocks))) > 4, "the order changes from round to round"


@pytest.mark.parametrize(
    ("backend", "threads", "clock", "cores"),
    [
        ("onnxruntime", 1, "CPU time", [[], []]),
        ("onnxruntime", 2, "wall time on pinned cores", [[0, 4], [6, 0]]),
        ("onnxruntime", 3, "wall time", [[], []]),
        ("tensorrt_rtx", 1, "wall time on pinned cores", [[0], [4]]),
    ],
)
def test_the_clock_is_the_one_that_sees_the_work(
    backend: str,
    threads: int,
    clock: str,
    cores: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 4, 6})

    def answer(*words: str) -> subprocess.CompletedProcess[str]:
        asked.append(json.loads(words[-1]))
        return subprocess.CompletedProcess(words, 0, "[[1, 1, 1, 1], [1, 1, 1, 1]]\n", "")

    monkeypatch.setattr(children, "run", answer)
    result = compare_latency(tmp_path, tmp_path, tmp_path, backend=backend, rules=Rules(2, threads=threads))
    assert result.clock == clock
    assert {str(request["clock"]) for request in asked} == {clock}
    assert [request["cores"] for request in asked] == cores, "another core for the next process"
    assert len({request["seed"] for request in asked}) == 2


def test_a_model_that_breaks_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    write_cases(tmp_path / "cases.npz", (Case("one", {"x": np.zeros(1)}, {}, {}),))
    with pytest.raises(BackendError, match=r"a\.onnx against .* broke: .*does not load"):
        compare_latency(tmp_path / "a.onnx", tmp_path / "a.onnx", tmp_path / "cases.npz", rules=Rules(1, 1, 0.001))


def test_the_contestant_serves_what_the_contest_asks_for() -> None:
    assert Rules().block / comparison_worker.SHORTEST > 10, "a block holds several samples of the shortest run"
