"""The usual rules say what their tools would say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attn_export.deploy_tests.parity import metrics

TRUTH = np.random.default_rng(0).standard_normal((4, 50))


def test_the_rounded_truth_passes_everything() -> None:
    came = TRUTH.astype(np.float32)
    assert all(metrics.verdicts(came, TRUTH).values())
    figures = metrics.figures(came, TRUTH)
    assert figures["cosine"] == pytest.approx(1)
    assert figures["top1"] == 1
    assert figures["snr_db"] is not None
    assert 140 < figures["snr_db"] < 160


@pytest.mark.parametrize(
    ("came", "failing"),
    [
        (np.zeros_like(TRUTH), set(metrics.RULES)),
        (TRUTH + 1e-4, {"allclose 1e-5"}),
        (TRUTH * 1.004, {"allclose 1e-3", "allclose 1e-5", "torch's verify"}),
        (np.where(TRUTH.max() == TRUTH, np.nan, TRUTH), set(metrics.RULES) - {"top-1 equal"}),
        (TRUTH[:, ::-1], set(metrics.RULES)),
    ],
    ids=["zeros", "off by 1e-4", "scaled", "one NaN", "reversed"],
)
def test_what_each_rule_notices(came: np.ndarray[tuple[int, ...], np.dtype[np.float64]], failing: set[str]) -> None:
    rows = metrics.verdicts(came, TRUTH)
    assert {name for name, ok in rows.items() if not ok} == failing


def test_another_shape_fails_everything() -> None:
    assert not any(metrics.verdicts(TRUTH.ravel(), TRUTH).values())


def test_figures_are_plain_data() -> None:
    figures = metrics.figures(TRUTH, TRUTH)
    assert figures["snr_db"] is None, "infinite"
    assert figures["max_abs"] == 0


def test_formulas() -> None:
    assert metrics.cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(math.sqrt(0.5))
    assert metrics.cosine(np.zeros(2), np.zeros(2)) == 1
    assert metrics.cosine(np.ones(2), np.zeros(2)) == 0
    assert metrics.psnr(np.array([0.1, 1.0]), np.array([0.0, 1.0])) == pytest.approx(10 * math.log10(1 / 0.005))
    assert metrics.snr(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(20.0)
    assert metrics.top1(np.array([[1, 2], [2, 1]]), np.array([[1, 2], [1, 2]])) == 0.5
    assert metrics.relative(np.array([1.1]), np.array([1.0]))[0] == pytest.approx(0.1)
