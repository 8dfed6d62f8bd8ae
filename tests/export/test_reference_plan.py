"""Which cases there are: names, seeds, scales and sizes, and what a later case is drawn with."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from attn_export.export.cases.plan import plan as planned
from attn_export.export.reference import cases
from attn_export.export.subject import Subject
from attn_export.mechanisms.spec import Input
from attn_export.types import Dim


def image(*dynamic: Dim, **sizes: int) -> Subject:
    given = {"b": 2, "h": 8, "w": 8} | sizes
    return Subject("image", nn.ReLU().eval(), (Input("x", ("b", 3, "h", "w")),), given, dynamic)


def plan(subject: Subject, seed: int = 0) -> list[tuple[str, int, float, dict[str, int]]]:
    """The cases that every model has, whatever one costs."""
    return [(row.name, row.seed, row.scale, dict(row.sizes)) for row in planned(subject, seed) if not row.optional]


def test_the_cases_of_an_image_model_are_these() -> None:
    wanted = [
        ("b=1", 0, 1.0, {"b": 1}),
        ("as traced", 1, 1.0, {}),
        ("scale 0.05", 2, 0.05, {"b": 1}),
        ("scale 8", 3, 8.0, {"b": 1}),
        ("b=3", 4, 1.0, {"b": 3}),
        ("h=9, w=10", 5, 1.0, {"b": 1, "h": 9, "w": 10}),
        ("h=7, w=6", 6, 1.0, {"b": 1, "h": 7, "w": 6}),
        ("h=11, w=12", 7, 1.0, {"b": 1, "h": 11, "w": 12}),
    ]
    assert plan(image(Dim("b"), Dim("h"), Dim("w"))) == wanted
    seeded = plan(image(Dim("b"), Dim("h"), Dim("w")), 40)
    assert seeded == [(name, seed + 40, scale, sizes) for name, seed, scale, sizes in wanted]


def test_what_may_not_vary_does_not() -> None:
    assert [(name, sizes) for name, _, _, sizes in plan(image())] == [
        ("as traced", {}), ("scale 0.05", {}), ("scale 8", {})
    ]  # fmt: skip
    rows = plan(image(Dim("b", max=3)))
    assert [name for name, *_ in rows] == ["b=1", "as traced", "scale 0.05", "scale 8", "b=3"]
    assert [name for name, *_ in plan(image(Dim("b"), b=1))] == ["as traced", "scale 0.05", "scale 8", "b=3"]


@pytest.mark.parametrize(
    ("dim", "traced", "wanted"),
    [
        (Dim("h"), 8, [9, 7, 11]),
        (Dim("h", step=4), 8, [12, 4, 20]),
        (Dim("h", max=8), 8, [7, 7, 5]),  # no room above: the other way
        (Dim("h", min=8), 8, [9, 9, 11]),  # none below
        (Dim("h", min=8, max=9), 8, [9, 9, 8]),  # three steps fit nowhere: as traced
        (Dim("h"), 2, [3, 3, 5]),  # a size of one says too little
    ],
)
def test_a_dimension_moves_three_times_within_its_bounds(dim: Dim, traced: int, wanted: list[int]) -> None:
    moved = [sizes["h"] for name, _, _, sizes in plan(image(dim, h=traced)) if "h=" in name]
    assert moved == list(dict.fromkeys(wanted))


@pytest.mark.parametrize("seed", [None, 7])
def test_each_case_holds_what_its_seed_scale_and_sizes_draw(seed: int | None) -> None:
    subject = image(Dim("b"), Dim("h"))
    made = cases(subject) if seed is None else cases(subject, seed)
    rows = plan(subject, seed or 0)
    by_name = {case.name: case for case in made}
    assert len(by_name) == len(made) > len(rows), "kinds and sizes beside"
    for name, number, scale, sizes in rows:
        wanted = subject.example(seed=number, scale=scale, sizes=sizes)["x"].numpy()
        np.testing.assert_array_equal(by_name[name].inputs["x"], wanted)
        np.testing.assert_array_equal(by_name[name].reference["y"], np.maximum(wanted.astype(np.float64), 0))
