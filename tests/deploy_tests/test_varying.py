"""A model in half precision must keep what varies: a constant beside it lends no decibels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from attn_export.bundle import VARYING_DB, Case
from attn_export.deploy_tests.data.inputs import PREFIX
from attn_export.deploy_tests.parity import varying
from attn_export.deploy_tests.parity.compare import Parity, prove
from attn_export.errors import InconclusiveError
from attn_export.pipeline.report import recount
from attn_export.types import Array, Dim, TensorSpec

RNG = np.random.default_rng(3)
X, Y = TensorSpec("x", "float32", ("b", 30)), TensorSpec("y", "float32", ("b", 30))
BATCH = Dim("b", 1, None)
TRUTH = RNG.standard_normal((6, 30))


def cases(truth: Array, names: Sequence[str] = ("as traced", "b=3", "zeros")) -> list[Case]:
    """Two images a case."""
    size = len(truth) // len(names)
    parts = [truth[i * size : (i + 1) * size] for i in range(len(names))]
    return [Case(name, {"x": part}, {"y": part}, {"y": 1e-6}) for name, part in zip(names, parts, strict=True)]


def asked(of: Sequence[Case], precision: str = "float16", data: Sequence[str] = ()) -> varying.Wanted:
    found = varying.wanted(precision, of, (X,), (Y,), (BATCH,), data=data)
    assert found is not None
    return found


def judge(of: Sequence[Case], came: Any) -> Parity:
    return prove(lambda feeds: {"y": came(feeds["x"])}, of, [Y], backend="test", snr=40.0, images=asked(of))


def test_float32_and_int8_have_measures_of_their_own() -> None:
    for precision in ("float32", "int8"):
        assert varying.wanted(precision, cases(TRUTH), (X,), (Y,), (BATCH,)) is None


def test_images_are_those_drawn_as_ever_or_the_users_own_where_there_are_two() -> None:
    names = (
        "as traced",
        "b=1",
        "h=30, w=41",
        "seed 2",
        "scale 8",
        "zeros",
        "natural image",
        f"{PREFIX}a",
        f"{PREFIX}b",
    )
    of = cases(RNG.standard_normal((len(names), 30)), names)
    assert asked(of).names == {"as traced", "b=1", "h=30, w=41", "seed 2"}
    assert asked(of, data=names[-2:]).names == set(names[-2:])
    assert asked(of, data=names[-1:]).names == {"as traced", "b=1", "h=30, w=41", "seed 2"}
    assert asked(of[-2:]).names == set(names[-2:])  # as of files that are given to verify


def test_a_constant_hides_what_is_lost_from_the_usual_ratio_and_not_from_this() -> None:
    of = cases(1000 + 0.1 * TRUTH)
    lost = np.float32(1000)
    with pytest.raises(InconclusiveError, match=r"prove nothing about float16: .* keeps -?[0-9.]+ dB"):
        judge(of, lambda x: np.full(x.shape, lost))
    usual = prove(lambda feeds: {"y": np.full(feeds["x"].shape, lost)}, of, [Y], backend="test", snr=40.0)
    assert usual.ok
    assert usual.worst.snr_db > 70


def test_little_that_varies_and_is_kept_is_a_pass() -> None:
    parity = judge(cases(1000 + 0.1 * TRUTH), lambda x: x.astype(np.float32))
    assert parity.ok
    assert parity.varying is not None
    assert not parity.varying.outputs[0].judged
    assert parity.varying.least.median_db > 50
    assert "are kept at the median of 4 inputs (limit 20 dB)" in parity.summary()


@pytest.mark.parametrize(("share", "said"), [(1e-4, True), (0.0, False)], ids=["a little varies", "constant"])
def test_an_output_of_which_nothing_is_known_is_named_where_another_decides(share: float, said: bool) -> None:
    """A constant, such as a detector's anchors, has nothing to keep."""
    z = TensorSpec("z", "float32", ("b", 30))
    of = [
        Case(
            case.name,
            case.inputs,
            {**case.reference, "z": 1000 + share * 1000 * case.reference["y"]},
            {"y": 1e-6, "z": 1e-6},
        )
        for case in cases(TRUTH)
    ]
    wanted = varying.wanted("float16", of, (X,), (Y, z), (BATCH,))

    def run(feeds: Any) -> Any:
        return {"y": feeds["x"].astype(np.float32), "z": np.full(feeds["x"].shape, np.float32(1000))}

    parity = prove(run, of, [Y, z], backend="test", snr=40.0, images=wanted)
    assert parity.ok
    assert (
        "nothing is proven of what varies in z: 9.1e-09 of its energy, of which -1.1 dB" in parity.summary()
    ) is said
    assert ("nothing is proven" in parity.summary()) is said


def test_what_fails_by_the_usual_ratio_fails_and_is_not_undecided() -> None:
    parity = judge(cases(1000 + 0.1 * TRUTH), lambda x: np.full(x.shape, np.float32(0)))
    assert not parity.ok


def test_one_image_alone_is_said_not_to_be_judged_and_passes_by_the_usual_ratio() -> None:
    parity = judge(cases(TRUTH[:1], ("as traced",)), lambda x: x.astype(np.float32))
    assert parity.ok
    assert "what varies from input to input could not be judged: y of case 'as traced'" in parity.summary()


def test_an_output_that_a_runtime_writes_over_is_compared_as_it_came() -> None:
    same = np.empty((2, 30), np.float32)

    def over(x: Array) -> Array:
        same[:] = x
        return same

    assert judge(cases(TRUTH), over).ok


def test_a_record_with_a_lower_limit_or_another_median_is_odd() -> None:
    parity = judge(cases(TRUTH), lambda x: x.astype(np.float32)).to_dict()
    manifest = {"artifacts": [], "tolerance": {"snr_db_limit": 40.0}}
    limit = [text for text in recount.parity(manifest, parity) if "varies" in text]
    assert limit == []
    low = {**parity, "varying": {**parity["varying"], "limit_db": VARYING_DB - 1}}
    assert "of what varies it is held to 19 dB, and no less than 20 dB counts" in recount.parity(manifest, low)
    output = {**parity["varying"]["outputs"][0], "median_db": 15.0}
    other = {**parity, "varying": {**parity["varying"], "outputs": [output]}}
    assert any("the median of y is recorded as 15.0 dB" in text for text in recount.parity(manifest, other))
    images = [{**image, "snr_db": 5.0} for image in output["images"]]
    lies = {**parity, "varying": {**parity["varying"], "outputs": [{**output, "images": images, "median_db": 5.0}]}}
    assert any("but by its images it does not" in text for text in recount.parity(manifest, lies))
