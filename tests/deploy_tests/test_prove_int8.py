"""An int8 model is held to its own meaning and to the original, on the user's data alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from attn_export.bundle import Case
from attn_export.deploy_tests.parity.compare import Parity
from attn_export.deploy_tests.parity.int8 import MEANING, ORIGINAL, prove_int8, prove_others
from attn_export.errors import InconclusiveError
from attn_export.types import Array, Feeds, TensorSpec

RNG = np.random.default_rng(0)
PORT = TensorSpec("y", "float32", ("b", 40))
INPUTS = [RNG.standard_normal((1, 40)).astype(np.float32) for _ in range(8)]
NOISE = [RNG.standard_normal((1, 40)) for _ in range(8)]


def original(x: Array) -> Array:
    return np.asarray(2 * x.astype(np.float64))


def meaning(index: int) -> Array:
    """Quantising adds a tenth of noise: 26 dB."""
    return original(INPUTS[index]) + 0.1 * NOISE[index]


CASES = [Case(f"data: {i}", {"x": x}, {"y": original(x)}, {"y": 0.0}) for i, x in enumerate(INPUTS)]
OWN = [Case(f"data: {i}", {"x": x}, {"y": meaning(i)}, {"y": 0.0}) for i, x in enumerate(INPUTS)]
DRAWN = [Case("scale 1e+05", {"x": 1e5 * INPUTS[0]}, {"y": 1e5 * original(INPUTS[0])}, {"y": 0.0})]


def judge(
    noise: float, limit: float | None = 20, snr: float | None = 20.0, wrong: Callable[[Array], Array] | None = None
) -> Parity:
    """Judge a runtime that adds ``noise`` times what quantising adds."""
    random = np.random.default_rng(1)

    def run(feeds: Feeds) -> dict[str, Array]:
        (index,) = (i for i, x in enumerate(INPUTS) if np.array_equal(x, feeds["x"]))
        value = meaning(index) + noise * 0.1 * random.standard_normal((1, 40))
        return {"y": (value if wrong is None else wrong(value)).astype(np.float32)}

    return prove_int8(run, OWN, [*DRAWN, *CASES], [PORT], backend="r", batched=True, snr=snr, limit=limit)


def test_both_references_are_compared_and_drawn_cases_are_left_out() -> None:
    found = judge(0.1)
    assert found.ok
    assert [one.against for one in found.centred] == [ORIGINAL, MEANING]
    assert found.centred[0].least.median_db == pytest.approx(26, abs=1)
    assert found.centred[1].least.median_db == pytest.approx(46, abs=1)
    assert len(found.comparisons) == 8
    assert "1 drawn cases" in found.summary()


def test_a_runtime_may_add_no_more_noise_than_quantising_did() -> None:
    found = judge(2.0, limit=10)
    assert found.centred[0].ok, "what is left of the original would do"
    assert not found.centred[1].ok
    assert found.centred[1].limit_db == pytest.approx(26, abs=1)
    assert not found.ok


def test_what_was_asked_for_is_of_the_original() -> None:
    assert not judge(0.1, limit=30).ok
    assert judge(0.1, limit=None).ok


def test_a_runtime_without_a_limit_is_held_to_none_of_its_meaning() -> None:
    assert judge(2.0, limit=10, snr=None).centred[1].limit_db is None


@pytest.mark.parametrize(
    "wrong", [np.zeros_like, lambda y: y + 3, lambda y: np.full_like(y, np.nan), lambda y: y[:, :3]]
)
def test_what_is_wrong_fails(wrong: Callable[[Array], Array]) -> None:
    assert not judge(0.0, wrong=wrong).ok


def test_one_image_that_the_runtime_gets_wrong_fails_although_half_are_right() -> None:
    seen = [0]

    def once(y: Array) -> Array:
        seen[0] += 1
        return -y if seen[0] == 3 else y

    found = judge(0.0, wrong=once)
    assert found.centred[1].ok
    assert not found.ok


def test_each_case_is_run_once() -> None:
    seen = []

    def run(feeds: Feeds) -> dict[str, Array]:
        seen.append(1)
        return {"y": original(feeds["x"]).astype(np.float32)}

    prove_int8(run, OWN, CASES, [PORT], backend="r", batched=True, snr=20, limit=None)
    assert len(seen) == 8


def test_other_data_is_judged_by_what_varies_and_one_image_says_nothing() -> None:
    def run(feeds: Feeds) -> dict[str, Array]:
        return {"y": (1.05 * original(feeds["x"])).astype(np.float32)}

    found = prove_others(run, CASES, [PORT], backend="r", batched=True, limit=20)
    assert found.ok
    assert found.comparisons == ()
    assert not prove_others(run, CASES, [PORT], backend="r", batched=True, limit=40).ok
    with pytest.raises(InconclusiveError, match="at least two images"):
        prove_others(run, CASES[:1], [PORT], backend="r", batched=True, limit=20)
