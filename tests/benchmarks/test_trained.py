"""The trained networks are what their table says, and int8 holds on them where rounding to the nearest does not."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from attn_export.export.quantise.judge import centred
from attn_export.export.quantise.quantised import Wish
from benchmarks.int8 import page, runtime_row
from benchmarks.int8.__main__ import answers
from benchmarks.int8.methods import ours, usual
from benchmarks.int8.row import read
from benchmarks.train_small import __main__ as training
from tests.data.trained.nets import NETS
from tests.data.trained.pictures import feeds, part
from tests.data.trained.trained import exported, module

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NETS)
def test_weights_are_as_good_as_the_table_says(name: str) -> None:
    said = next(row for row in read().values() if row.net == name and row.method == "float32, fused")
    pictures = part("textures", "test")
    right = training.correct(module(name), pictures) / len(pictures.y)
    assert said.accuracy == pytest.approx(right, abs=0.003)
    assert right > 0.7


def test_no_picture_is_in_two_parts() -> None:
    for kind in ("textures", "digits"):
        seen = [{one.tobytes() for one in part(kind, which).x} for which in ("training", "calibration", "test")]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]
        assert not seen[0] & seen[1]


def test_a_trained_repvgg_keeps_what_rounding_to_the_nearest_loses() -> None:
    model = exported("repvgg", fuse=True)
    calibration, pictures = feeds("textures", "calibration")[:42], feeds("textures", "test")[:64]
    truth = [{"y": value} for value in answers(model, pictures)]
    naive = [{"y": v} for v in answers(usual(model, calibration, unsigned=True, per_channel=True), pictures)]
    made = [{"y": v} for v in answers(ours(model, calibration, Wish(levels=False))[0], pictures)]
    assert centred(truth, made).median > centred(truth, naive).median + 5
    assert np.mean([a["y"].argmax() == b["y"].argmax() for a, b in zip(truth, made, strict=True)]) > 0.9


def test_the_page_is_that_of_the_rows() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.whole()
    assert {row.net for row in runtime_row.read().values()} == set(NETS), "every network on other runtimes"


def test_a_file_with_the_same_codes_keeps_the_same() -> None:
    """As the rows have it: another runtime rounds its sums otherwise, and loses no more than a decibel by that."""
    rows = list(runtime_row.read().values())
    own = {row.net: row for row in rows if row.runtime.startswith("ONNX Runtime")}
    others = [row for row in rows if row.median_db is not None and "simulated" not in row.runtime]
    assert {row.runtime.partition(" ")[0] for row in others} == {"ONNX", "OpenVINO", "LiteRT"}
    for row in others:
        kept = own[row.net].median_db
        assert kept is not None
        assert row.median_db is not None
        assert row.median_db > kept - 1


def test_examples() -> None:
    assert doctest.testmod(training).failed == 0
