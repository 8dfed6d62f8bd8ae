"""Every slice of an output has a limit of its own: what is small beside something large cannot hide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attn_export.bundle import Case, case_of
from attn_export.bundle import slices as cut
from attn_export.deploy_tests.parity import slices
from attn_export.deploy_tests.parity.compare import Parity, prove
from attn_export.types import TensorSpec

#: Detections [batch, 4 coordinates and 18 scores, anchors]: boxes of norm 13,000 beside scores below 0.08.
SHAPE = (1, 22, 400)
PORT = TensorSpec("y", "float32", SHAPE)
Values = NDArray[np.float64]


def detector(seed: int) -> tuple[Values, list[dict[str, NDArray[Any]]]]:
    random = np.random.default_rng(seed)
    boxes, scores = random.uniform(0, 640, (1, 4, 400)), random.uniform(0, 0.08, (1, 18, 400))
    truth = np.concatenate([boxes, scores], 1)
    runs = [truth + noise(truth, random) for _ in range(3)]
    return truth, [{"y": run.astype(np.float32)} for run in runs]


def noise(truth: Values, random: np.random.Generator) -> Values:
    """Correct float32: relative in the boxes, 1e-8 in the scores."""
    stray = random.standard_normal(truth.shape)
    return stray * np.concatenate([1e-6 * truth[:, :4], np.full_like(truth[:, 4:], 1e-8)], 1)


def cases(count: int = 4) -> list[Case]:
    found = []
    for seed in range(count):
        truth, runs = detector(seed)
        found.append(case_of(f"seed {seed}", {"seed": np.asarray(seed)}, {"y": truth}, runs))
    return found


def judged(change: Callable[[Values], None], **options: Any) -> Parity:
    def run(feeds: Any) -> dict[str, NDArray[Any]]:
        truth = detector(int(feeds["seed"]))[0]
        came = truth + noise(truth, np.random.default_rng(99))
        change(came)
        return {"y": came.astype(np.float32)}

    return prove(run, cases(), [PORT], backend="test", **options)


def test_correct_float32_passes() -> None:
    parity = judged(lambda y: None)
    assert parity.ok
    assert 0.1 < max(row.slice_normalized_error for row in parity.comparisons) < 4
    assert all(row.worst_slice for row in parity.comparisons)


def dead(y: Values) -> None:
    y[:, 11] = 0


def swapped(y: Values) -> None:
    y[:, [9, 10]] = y[:, [10, 9]]


def shifted(y: Values) -> None:
    y[:, 7] = np.roll(y[:, 7], 1, axis=1)


def scaled(y: Values) -> None:
    y[:, 21] *= 1.001


def one_number(y: Values) -> None:
    y[0, 15, 3] += 1e-3


@pytest.mark.parametrize("fault", [dead, swapped, shifted, scaled, one_number])
def test_a_small_slice_cannot_hide_behind_a_large_one(fault: Callable[[Values], None]) -> None:
    parity = judged(fault)
    assert not parity.ok
    assert "along axis" in parity.summary()
    if fault is dead:
        assert parity.worst.normalized_error < 1000, "to the whole output it is little"
        assert "slice 11 of 22 along axis 1" in parity.worst.worst_slice


def test_what_the_norm_of_the_whole_lets_pass_is_why_there_are_slices() -> None:
    def faint(y: Values) -> None:
        y[:, 11] *= 1 - 1e-2 / 8

    parity = judged(faint)
    row = parity.worst
    assert row.normalized_error < parity.normalized_limit
    assert not parity.ok
    assert "although the output as a whole is not" in parity.summary()


def test_a_coarser_precision_is_granted_as_much_more_in_every_slice() -> None:
    def half(y: Values) -> None:
        y[:] = y.astype(np.float16)

    assert not judged(half).ok
    assert judged(half, snr=40.0).ok
    assert not judged(dead, snr=40.0).ok, "a dead class is no question of precision"


def test_a_single_number_that_was_hit_by_luck_is_judged_by_its_usual_share() -> None:
    """Logits of one image: float32 hits some exactly in one case, and the next run does not."""
    random = np.random.default_rng(1)
    found = []
    for index in range(10):
        truth = random.standard_normal((1, 50))
        stray = 1e-6 * random.standard_normal((1, 50))
        stray[0, index] = 0
        found.append(case_of(f"{index}", {"i": np.asarray(index)}, {"y": truth}, [{"y": truth + stray}]))

    def run(feeds: Any) -> dict[str, NDArray[Any]]:
        truth = found[int(feeds["i"])].reference["y"]
        return {"y": truth + 1e-6 * np.random.default_rng(5).standard_normal((1, 50))}

    port = TensorSpec("y", "float64", (1, 50))
    assert prove(run, found, [port], backend="test").ok
    alone = slices.shares(found[:1])
    assert np.isnan(alone["y", 1, 50]).all(), "one number of one case is no measure"
    assert not np.isnan(slices.shares(found)["y", 1, 50]).any()


def test_a_dead_logit_fails_though_it_is_one_number() -> None:
    random = np.random.default_rng(2)
    found = []
    for index in range(10):
        truth = np.exp(random.standard_normal((1, 50)) - 8 * (np.arange(50) == 7))
        found.append(
            case_of(f"{index}", {}, {"y": truth}, [{"y": truth * (1 + 1e-7 * random.standard_normal((1, 50)))}])
        )
    for case in found:
        came = case.reference["y"].copy()
        came[0, 7] *= 1 - 1e-3
        port = TensorSpec("y", "float64", (1, 50))
        parity = prove(lambda _, y=came: {"y": y}, [case], [port], backend="", shares=slices.shares(found))  # type: ignore[misc]
        assert not parity.ok


def test_axes_and_norms() -> None:
    assert cut.axes(0) == ()
    assert cut.axes(1) == (0,)
    assert cut.axes(3) == (1, 2)
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert cut.norms(values, 1)[2] == pytest.approx(np.linalg.norm(values[:, 2]))
    assert cut.norms(np.zeros((2, 0)), 1).shape == (0,)


def test_infinite_reference_values_grant_nothing_to_their_slice() -> None:
    truth = np.array([[1.0, -np.inf], [2.0, 3.0]])
    case = case_of("a", {}, {"y": truth}, [{"y": truth.astype(np.float32)}])
    assert case.float32_error["y"] == 0
    assert case.slice_error["y"][1].tolist() == [0, 0]
