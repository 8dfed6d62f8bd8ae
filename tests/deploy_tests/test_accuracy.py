"""Paired accuracy: its interval against an independent computation, its coverage, and what it decides."""

from __future__ import annotations

import math
from math import comb

import numpy as np
import pytest

from attn_export.deploy_tests.parity import accuracy
from attn_export.deploy_tests.parity.accuracy import Accuracy, Answer, Z, interval
from attn_export.errors import GateError, InconclusiveError, UsageError


def answers(choices: list[int], prepared: str = "a") -> dict[str, Answer]:
    return {f"{i}.png": Answer(choice, prepared) for i, choice in enumerate(choices)}


def counted(images: int, gained: int, lost: int) -> Accuracy:
    return Accuracy(images, images - gained, images - lost, gained, lost, *interval(images, gained, lost), ())


@pytest.mark.parametrize("images", [10, 100, 5000])
def test_where_no_answer_flipped_the_interval_has_a_closed_form(images: int) -> None:
    end = Z**2 / (images + Z**2)
    assert interval(images, 0, 0) == pytest.approx((-end, end), abs=1e-12)


@pytest.mark.parametrize(("images", "gained", "lost"), [(50, 3, 9), (44, 0, 5), (200, 12, 1), (20, 7, 6)])
def test_the_ends_are_where_a_score_test_just_rejects(images: int, gained: int, lost: int) -> None:
    """The likeliest share of lost images is found on a grid here, not by the quadratic equation."""
    for end, sign in zip(interval(images, gained, lost), (1, -1), strict=True):
        lost_shares = np.linspace(max(0.0, -end), (1 - end) / 2, 200_001)[1:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = (
                (gained * np.log(lost_shares + end) if gained else 0)
                + (lost * np.log(lost_shares) if lost else 0)
                + (images - gained - lost) * np.log(1 - 2 * lost_shares - end)
            )
        share = lost_shares[np.nanargmax(likelihood)]
        score = (gained - lost - images * end) / math.sqrt(images * (2 * share + end * (1 - end)))
        assert score == pytest.approx(sign * Z, abs=2e-3)


def test_changing_sides_mirrors_it() -> None:
    low, high = interval(80, 2, 9)
    assert interval(80, 9, 2) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("gain", "loss"), [(0.02, 0.05), (0.1, 0.1), (0.0, 0.03)])
def test_it_covers_the_true_change_about_as_often_as_it_says(gain: float, loss: float) -> None:
    images, covered = 40, 0.0
    for gained in range(images + 1):
        for lost in range(images + 1 - gained):
            likely = (
                comb(images, gained)
                * comb(images - gained, lost)
                * gain**gained
                * loss**lost
                * (1 - gain - loss) ** (images - gained - lost)
            )
            if likely < 1e-9:
                continue
            low, high = interval(images, gained, lost)
            covered += likely * (low - 1e-9 <= gain - loss <= high + 1e-9)
    assert covered > 0.93


def test_pairs_are_counted_and_flips_are_named() -> None:
    labels = {f"{i}.png": label for i, label in enumerate([0, 1, 2, 3, 4])}
    found = accuracy.paired(labels, answers([0, 1, 2, 9, 9]), answers([0, 1, 9, 3, 8]))
    assert (found.images, found.original, found.deployed, found.gained, found.lost) == (5, 3, 3, 1, 1)
    assert [flip.image for flip in found.flips] == ["2.png", "3.png", "4.png"]
    assert found.change == 0
    assert found.to_dict()["flips"][0] == {"image": "2.png", "label": 2, "original": 2, "deployed": 9}


def test_images_that_were_not_prepared_alike_are_not_compared() -> None:
    labels = {"0.png": 0}
    with pytest.raises(GateError, match=r"not given the same input for '0\.png'"):
        accuracy.paired(labels, answers([0]), answers([0], prepared="b"))
    with pytest.raises(GateError, match="not given the same input"):
        accuracy.paired(labels, answers([0]), {})
    with pytest.raises(UsageError, match="expected a label for at least one image"):
        accuracy.paired({}, answers([0]), answers([0]))


def test_so_many_images_pass_fail_or_cannot_tell() -> None:
    assert accuracy.judge(counted(2000, 1, 1), 0.005) == "passed"
    assert accuracy.judge(counted(100, 0, 0), 0.005) == "inconclusive"
    assert accuracy.judge(counted(400, 0, 40), 0.005) == "failed"
    accuracy.refuse(counted(2000, 1, 1), 0.005)
    with pytest.raises(GateError, match=r"at most 0\.5 points may be lost"):
        accuracy.refuse(counted(400, 0, 40), 0.005)
    with pytest.raises(InconclusiveError, match=r"100 images cannot tell.*about 765 are needed"):
        accuracy.refuse(counted(100, 0, 0), 0.005)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 2), (3, 3), (0, 4)])
def test_as_many_as_are_said_to_be_needed_tell_and_fewer_do_not(gained: int, lost: int) -> None:
    found = counted(100, gained, lost)
    more = accuracy.needed(found, 0.005)
    assert more is not None

    def verdict(images: int) -> str:
        ends = interval(images, images * gained / 100, images * lost / 100)
        return accuracy.judge(Accuracy(images, 0, 0, 0, 0, *ends, ()), 0.005)

    assert verdict(more) != "inconclusive"
    assert verdict(more - 1) == "inconclusive"


def test_where_the_drop_is_the_limit_itself_no_number_tells() -> None:
    found = counted(200, 0, 1)
    assert accuracy.needed(found, 0.005) is None
    with pytest.raises(InconclusiveError, match="no number of images would"):
        accuracy.refuse(found, 0.005)
