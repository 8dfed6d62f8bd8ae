"""Rows that were chosen: paired wherever they stand, and never with what they are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from attn_export.bundle import SHARE, Case, Selection, case_of, loose, rows
from attn_export.deploy_tests.parity.compare import prove
from attn_export.types import Array, TensorSpec

Found = dict[str, Array]
CHOSEN = (Selection("TopK 'top'", {"boxes": 1, "scores": 1, "labels": 1}),)
PORTS = [
    TensorSpec("boxes", "float32", ("b", "n", 4)),
    TensorSpec("scores", "float32", ("b", "n")),
    TensorSpec("labels", "int64", ("b", "n")),
]
#: How far float32 strays here.
NOISE = 1e-6


def detections(seed: int = 0, items: int = 2, count: int = 30) -> Found:
    """Boxes of a few hundred pixels beside scores below 1, the best first."""
    random = np.random.default_rng(seed)
    return {
        "boxes": random.uniform(0, 640, (items, count, 4)),
        "scores": -np.sort(-random.random((items, count)), axis=1),
        "labels": random.integers(0, 80, (items, count)),
    }


def noisy(found: Found, seed: int = 1) -> Found:
    random = np.random.default_rng(seed)
    return {
        name: (value * (1 + NOISE * random.standard_normal(value.shape))).astype(np.float32)
        if value.dtype.kind == "f"
        else value.copy()
        for name, value in found.items()
    }


def permuted(found: Found, seed: int) -> Found:
    """Each item in an order of its own, which is the same for all outputs."""
    random = np.random.default_rng(seed)
    count = found["scores"].shape[1]
    orders = [random.permutation(count) for _ in range(len(found["scores"]))]
    return {n: np.stack([one[order] for one, order in zip(v, orders, strict=True)]) for n, v in found.items()}


def equal(one: Found, other: Found) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("seed", range(5))
def test_an_order_is_undone(seed: int) -> None:
    reference, came = detections(seed), noisy(detections(seed))
    assert equal(rows.matched(came, reference, CHOSEN), came)
    assert equal(rows.matched(permuted(came, seed), reference, CHOSEN), came)
    assert rows.apart(permuted(came, seed), reference, CHOSEN) < 100 * NOISE


@pytest.mark.parametrize("seed", range(5))
def test_what_comes_out_is_what_went_in(seed: int) -> None:
    came = noisy(detections(seed + 10))  # of another picture altogether
    found = rows.matched(came, detections(seed), CHOSEN)
    for item in range(2):
        pairs = [
            sorted(
                (*side["boxes"][item, i].tolist(), side["scores"][item, i], side["labels"][item, i]) for i in range(30)
            )
            for side in (came, found)
        ]
        assert pairs[0] == pairs[1]
    assert rows.apart(came, detections(seed), CHOSEN) > SHARE


def test_rows_that_are_alike_stay_where_they_are() -> None:
    padded = {
        name: np.where(np.arange(30).reshape(1, 30, *[1] * (v.ndim - 2)) < 3, v, 0) for name, v in detections().items()
    }
    assert equal(rows.matched(noisy(padded), padded, CHOSEN), noisy(padded))


def test_what_has_another_shape_or_is_missing_stays_as_it_is() -> None:
    reference = detections()
    fewer = {name: value[:, 1:] for name, value in noisy(reference).items()}
    assert equal(rows.matched(fewer, reference, CHOSEN), fewer)
    assert rows.apart(fewer, reference, CHOSEN) == np.inf
    without = {name: value for name, value in permuted(noisy(reference), 0).items() if name != "labels"}
    assert rows.matched(without, reference, CHOSEN).keys() == without.keys()


def test_numbers_that_are_none_and_many_rows_cost_no_more() -> None:
    reference = detections(count=rows.MOST + 1)
    came = permuted(noisy(reference), 0)
    assert equal(rows.matched(came, reference, CHOSEN), came)  # each is compared with the one at its place
    strange = {**detections(), "scores": np.full((2, 30), np.nan)}
    assert rows.matched(permuted(strange, 0), strange, CHOSEN)["boxes"].shape == (2, 30, 4)


def _reversed(found: Found) -> Found:
    return {name: value[:, ::-1] for name, value in found.items()}


def _dropped(found: Found) -> Found:
    return {name: np.delete(value, 4, axis=1) for name, value in found.items()}


def _doubled(found: Found) -> Found:
    """The fifth is gone, and the fourth stands there once more."""
    return {name: np.insert(np.delete(value, 4, 1), 4, value[:, 3], 1) for name, value in found.items()}


def _with(name: str, change: Callable[[Array], Array]) -> Callable[[Found], Found]:
    return lambda found: {**found, name: change(found[name].copy()).astype(found[name].dtype)}


def _at(index: tuple[int, ...], change: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def changed(value: Array) -> Array:
        value[index] = change(value[index])
        return value

    return changed


FAULTS: dict[str, Callable[[Found], Found]] = {
    "a detection is dropped": _dropped,
    "a detection is another's": _doubled,
    "a class is another": _with("labels", _at((1, 7), lambda v: v + 1)),
    "two classes are exchanged": lambda found: _with("labels", lambda v: v[:, [1, 0, *range(2, 30)]])(found),
    "a box is shifted by 2 %": _with("boxes", _at((0, 9), lambda v: v * 1.02)),
    "a corner is shifted by 2 %": _with("boxes", _at((0, 9, 2), lambda v: v * 1.02)),
    "scores are larger by 5 %": _with("scores", lambda v: v * 1.05),
    "one score is larger by 5 %": _with("scores", _at((1, 20), lambda v: v * 1.05)),
    "the best come last": _reversed,
    "boxes go with other scores": _with("boxes", lambda v: v[:, ::-1]),
}


def passes(change: Callable[[Found], Found]) -> bool:
    made = [
        case_of(f"case {seed}", {}, detections(seed), [noisy(detections(seed), s) for s in (1, 2, 3)], CHOSEN)
        for seed in range(3)
    ]
    answers = iter(change(noisy(detections(seed), 7)) for seed in range(3))
    return prove(lambda _: next(answers), rows.with_order(made), PORTS, backend="").ok


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault: str) -> None:
    assert not passes(FAULTS[fault])


def test_what_is_right_passes_in_any_order_of_what_is_nearly_equal() -> None:
    def exchanged(found: Found) -> Found:
        order = [*range(10), 11, 10, *range(12, 30)]
        return {name: value[:, order] for name, value in found.items()}

    def near(seed: int) -> Found:
        found = detections(seed)
        found["scores"][:, 10] = found["scores"][:, 11] * (1 + NOISE)
        return found

    made = [case_of(f"{s}", {}, near(s), [exchanged(noisy(near(s), 1)), noisy(near(s), 2)], CHOSEN) for s in range(3)]
    assert not any(map(loose, made))
    answers = iter(exchanged(noisy(near(seed), 7)) for seed in range(3))
    assert prove(lambda _: next(answers), rows.with_order(made), PORTS, backend="").ok


def test_what_is_in_order_by_chance_is_not_what_rows_go_by() -> None:
    def case(seed: int, count: int = 30) -> Case:
        return case_of(f"{seed}", {}, detections(seed, count=count), [], CHOSEN)

    def ordered(made: list[Case]) -> object:
        (found,) = {id(one): one for one in rows.with_order(made)[0].selections}.values()
        return found.ordered

    assert ordered([case(0), case(1)]) == {"scores": (0,)}
    assert ordered([case(seed, count=2) for seed in range(4)]) == {}  # one box may be larger than the next
    rising = replace(case(1), reference={**detections(1), "scores": detections(1)["scores"][:, ::-1]})
    assert ordered([case(0), rising]) == {}
    assert rows.with_order([]) == ()


def test_runs_that_chose_others_are_no_measure() -> None:
    reference = detections()
    other = noisy(reference)
    other["boxes"][0, 29] += 200
    fewer = {name: value[:, 1:] for name, value in noisy(reference).items()}
    for run in (other, fewer):
        case = case_of("one", {}, reference, [noisy(reference), run], CHOSEN)
        assert "correct float32 runs choose other rows of 'boxes'" in loose(case)
