"""A file that takes fewer sizes than its model: in one run, in pieces, or not at all, and then it is said."""

from __future__ import annotations

import numpy as np
import pytest

from attn_export.bundle import Case
from attn_export.bundle.narrowed import Narrowed
from attn_export.types import Array, Dim, Feeds, TensorSpec

X = TensorSpec("x", "float32", ("b", 3, "h"))
TABLE = TensorSpec("table", "float32", (4,))
Y = TensorSpec("y", "float32", ("b", 3))
ONE = Narrowed((X, TABLE), (Y,), (Dim("b", 1, 1),))


class Counted:
    """Gives the mean over the last axis, takes at most ``most`` items, and notes the batches that came."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.batches: list[int] = []

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        assert feeds["table"].shape == (4,)
        assert len(feeds["x"]) <= self.most
        self.batches.append(len(feeds["x"]))
        return {"y": feeds["x"].mean(-1)}


def feeds(b: int, h: int = 5) -> dict[str, Array]:
    return {"x": np.random.default_rng(b).normal(size=(b, 3, h)), "table": np.zeros(4)}


@pytest.mark.parametrize(("most", "pieces"), [(1, [1] * 9), (4, [4, 4, 1]), (9, [9])])
def test_a_batch_comes_in_pieces_and_its_outputs_in_order(most: int, pieces: list[int]) -> None:
    run = Counted(most)
    given = feeds(9)
    came = Narrowed((X, TABLE), (Y,), (Dim("b", 1, most),)).taking(run)(given)
    assert run.batches == pieces
    np.testing.assert_array_equal(came["y"], given["x"].mean(-1))


def test_what_varies_as_much_as_the_model_is_run_as_it_is() -> None:
    run = Counted(1)
    assert Narrowed((X, TABLE), (Y,)).taking(run) is run


def case(name: str, b: int, h: int = 5) -> Case:
    return Case(name, feeds(b, h), {"y": np.zeros((b, 3))}, {"y": 0.0})


def test_another_height_is_left_out_and_said() -> None:
    file = Narrowed((X, TABLE), (Y,), (Dim("b", 1, 1), Dim("h", 8, 8)))
    kept, left = file.fitting([case("small", 1), case("batch", 3, 8), case("right", 1, 8)])
    assert [one.name for one in kept] == ["batch", "right"]
    assert left == ("small: h=5, and this file takes 8",)
    assert file.whole(kept) == 1


def test_a_dimension_that_is_no_batch_is_not_cut() -> None:
    """Where an output does not count items first, pieces could not be put together."""
    mixed = Narrowed((X, TABLE), (Y, TensorSpec("pairs", "float32", (3, "b"))), (Dim("b", 1, 1),))
    assert mixed.refused(feeds(2)) == "b=2, and this file takes 1"
    alone = Narrowed((X, TABLE), (Y, TensorSpec("all", "float32", (3,))), (Dim("b", 1, 1),))
    assert alone.refused(feeds(2)) == "b=2, and this file takes 1"
    assert not ONE.refused(feeds(2))


def test_a_rest_that_is_too_small_is_refused() -> None:
    pairs = Narrowed((X, TABLE), (Y,), (Dim("b", 2, 2, 2),))
    assert not pairs.refused(feeds(4))
    assert pairs.refused(feeds(5)) == "b=5, and this file takes 2"


def test_outputs_that_do_not_fit_together_are_given_as_they_came() -> None:
    shapes = iter([(1, 3), (2, 4)])
    run = Narrowed((X, TABLE), (Y,), (Dim("b", 1, 1),)).taking(lambda _: {"y": np.zeros(next(shapes))})
    assert run(feeds(2))["y"].shape == (1, 3)  # the comparison sees another shape than the reference's
