"""The centred measure: laws that tell it from the usual ratio, and what it refuses to judge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from attn_export.bundle import Case, Selection
from attn_export.deploy_tests.parity import centred
from attn_export.deploy_tests.parity.centred import VARIES, Centred
from attn_export.errors import InconclusiveError
from attn_export.types import Array, Dim, TensorSpec

RNG = np.random.default_rng(0)
TRUTH = RNG.standard_normal((8, 1, 40))
PORT = TensorSpec("y", "float64", ("b", 40))


def cases(truth: Sequence[Array]) -> list[Case]:
    return [Case(f"image {i}", {}, {"y": one}, {"y": 0.0}) for i, one in enumerate(truth)]


def judge(came: Sequence[Array], truth: Sequence[Array] = TRUTH, limit: float | None = None) -> Centred:
    runs = [{"y": one} for one in came]
    return centred.compare(cases(truth), runs, [PORT], batched=True, against="the reference", limit=limit)


def varying(truth: Array) -> Array:
    return np.asarray(truth - truth.mean(0))


def test_noise_of_a_tenth_of_what_varies_has_20_decibels_in_every_image() -> None:
    found = judge(TRUTH + 0.1 * varying(TRUTH), limit=19.9)
    assert found.ok
    assert {round(image.snr_db, 9) for image in found.outputs[0].images} == {20.0}
    assert not judge(TRUTH + 0.1 * varying(TRUTH), limit=20.1).ok


def test_a_model_that_ignores_its_input_has_no_more_than_zero() -> None:
    found = judge(np.broadcast_to(TRUTH.mean(0), TRUTH.shape))
    assert all(image.snr_db == pytest.approx(0) for image in found.outputs[0].images)


def test_a_constant_in_every_image_changes_nothing_although_the_usual_ratio_grows() -> None:
    noise = 0.1 * RNG.standard_normal(TRUTH.shape)
    plain, lifted = (judge(truth + noise, truth) for truth in (TRUTH, TRUTH + 5))
    assert lifted.outputs[0].median_db == pytest.approx(plain.outputs[0].median_db, abs=1e-9)
    assert lifted.outputs[0].share < plain.outputs[0].share / 10


def test_an_offset_is_an_error_as_a_shift_of_one_class_is() -> None:
    shifted = TRUTH + np.linalg.norm(varying(TRUTH), axis=(1, 2), keepdims=True) / np.sqrt(40)
    assert all(image.snr_db == pytest.approx(0, abs=1e-9) for image in judge(shifted).outputs[0].images)


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**60])
def test_units_do_not_matter(factor: float) -> None:
    noisy = TRUTH + 0.03 * RNG.standard_normal(TRUTH.shape)
    plain, other = judge(noisy).outputs[0], judge(noisy * factor, TRUTH * factor).outputs[0]
    assert other.share == plain.share
    assert [image.snr_db for image in other.images] == pytest.approx([image.snr_db for image in plain.images])


def test_the_median_bears_an_outlier_and_the_worst_names_it() -> None:
    came = TRUTH + 0.01 * varying(TRUTH)
    came[3] += 100
    found = judge(came, limit=39)
    assert found.ok
    assert found.outputs[0].worst.name == "image 3"
    assert found.outputs[0].worst.snr_db < -20
    came[:5] += 100
    assert not judge(came, limit=39).ok


def test_a_batch_is_as_many_images() -> None:
    noisy = TRUTH + 0.03 * RNG.standard_normal(TRUTH.shape)
    single, whole = judge(noisy), judge([noisy[:5, 0], noisy[5:, 0]], [TRUTH[:5, 0], TRUTH[5:, 0]])
    assert [image.snr_db for image in whole.outputs[0].images] == [image.snr_db for image in single.outputs[0].images]
    assert whole.outputs[0].images[5].name == "image 1, image 0"


def test_images_of_one_shape_have_one_mean() -> None:
    small, large = RNG.standard_normal((3, 1, 4)), 5 + RNG.standard_normal((3, 1, 6))
    truth = [*small, *large]
    noise = [*(0.1 * varying(small)), *(0.1 * varying(large))]
    found = judge([one + more for one, more in zip(truth, noise, strict=True)], truth)
    assert {round(image.snr_db, 6) for image in found.outputs[0].images} == {20.0}


def test_what_is_alone_of_its_shape_is_left_out_and_said() -> None:
    truth = [*TRUTH, RNG.standard_normal((1, 7))]
    found = judge(truth, truth)
    assert len(found.outputs[0].images) == 8
    assert found.left_out == ("y of case 'image 8': no other image gives its shape",)
    with pytest.raises(InconclusiveError, match=r"no output can be compared with its mean.*at least two images"):
        judge(TRUTH[:1], TRUTH[:1])


@pytest.mark.parametrize(("lift", "refused"), [(60.0, True), (5.0, False)])
def test_where_next_to_nothing_varies_nothing_is_said(lift: float, refused: bool) -> None:
    truth = TRUTH + lift
    share = centred.shares(cases(truth), [PORT], batched=True)[0]["y"]
    assert (share < VARIES) == refused
    if not refused:
        assert judge(truth, truth).ok
        return
    with pytest.raises(InconclusiveError, match=r"prove nothing about INT8: only 0\.0002\d of.*would have 3[67] dB"):
        judge(truth, truth)


def test_the_limit_is_where_a_lost_input_would_pass_the_usual_ratio_of_a_quantised_graph() -> None:
    lift = np.sqrt((1 / VARIES - 1) * float(np.mean(varying(TRUTH) ** 2)))
    truth = varying(TRUTH) + lift
    assert centred.shares(cases(truth), [PORT], batched=True)[0]["y"] == pytest.approx(VARIES)
    noise = truth - truth.mean(0)
    assert 20 * np.log10(np.linalg.norm(truth) / np.linalg.norm(noise)) == pytest.approx(20)


def test_one_output_that_varies_is_enough_and_the_other_is_not_judged() -> None:
    both = [Case(f"{i}", {}, {"y": one, "z": one + 60}, {}) for i, one in enumerate(TRUTH)]
    runs = [{"y": case.reference["y"], "z": case.reference["z"] + 1} for case in both]
    ports = [PORT, TensorSpec("z", "float64", ("b", 40))]
    found = centred.compare(both, runs, ports, batched=True, against="it", limit=40)
    assert [one.output for one in found.judged] == ["y"]
    assert found.ok


@pytest.mark.parametrize(
    ("came", "why"),
    [
        (np.full((1, 40), np.nan), "40 of 40 values are NaN"),
        (np.zeros((1, 39)), "expected shape"),
        (np.zeros((0, 40)), "expected 1 images or more"),
        (np.zeros((1, 40), np.float32), "expected float64, got float32"),
        (None, "the output is missing"),
    ],
)
def test_what_cannot_be_compared_fails_whatever_the_limit(came: Array | None, why: str) -> None:
    runs = [{"y": one} for one in TRUTH]
    runs[2] = {} if came is None else {"y": came}
    found = centred.compare(cases(TRUTH), runs, [PORT], batched=True, against="it")
    assert not found.ok
    assert why in found.summary()


def test_what_has_no_mean_is_left_out() -> None:
    rows = Selection("TopK 't'", {"y": 1})
    chosen = [Case(f"{i}", {}, {"y": one}, {}, selections=(rows,)) for i, one in enumerate(TRUTH)]
    assert "rows are chosen" in centred.shares(chosen, [PORT], batched=True)[1][0]
    whole = TensorSpec("y", "int64", ("b", 40))
    assert "int64, which has no mean" in centred.shares(cases(TRUTH), [whole], batched=True)[1][0]
    broken = [*cases(TRUTH), Case("inf", {}, {"y": np.full((1, 40), np.inf)}, {})]
    assert "not finite" in centred.shares(broken, [PORT], batched=True)[1][0]


def test_top_one_counts_images_and_takes_any_of_equal_largest() -> None:
    truth = np.zeros((4, 1, 3))
    truth[:, 0] = np.eye(3)[[0, 1, 2, 2]]
    truth[3, 0] = [1, 1, 0]
    came = truth.copy()
    came[1, 0] = [1, 0, 0]
    came[3, 0] = [0, 1, 0]
    found = judge(came, truth)
    assert found.outputs[0].agreeing == (3, 4)
    assert "top-1 agrees in 3 of 4" in found.summary()
    maps = RNG.standard_normal((4, 1, 3, 5))
    assert judge(maps, maps).outputs[0].agreeing is None


def test_a_batch_is_told_by_the_ports() -> None:
    x, y = TensorSpec("x", "float32", ("b", 3, "h")), TensorSpec("y", "float32", ("b", 3))
    assert centred.batched((x,), (y,), [Dim("b"), Dim("h")])
    assert not centred.batched((x,), (y,), [Dim("h")])
    assert not centred.batched((x,), (TensorSpec("y", "float32", (3, "b")),), [Dim("b")])


def test_plain_data_holds_what_the_verdict_needs() -> None:
    noisy = TRUTH + 0.03 * RNG.standard_normal(TRUTH.shape)
    plain = judge(noisy, limit=20).to_dict()
    assert plain["ok"]
    assert plain["limit_db"] == 20
    row = plain["outputs"][0]
    assert row["median_db"] == np.median([image["snr_db"] for image in row["images"]])
