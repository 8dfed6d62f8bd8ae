"""Ranges of shapes: from cases, as typed, and refused where the contract or the cases lie outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from attn_export.bundle import Artifact, Bundle, Case
from attn_export.deploy_tests import backends, measurement, shapes
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.parity import verify
from attn_export.errors import BackendError, UsageError
from attn_export.types import Dim, ShapeRange, TensorSpec
from tests.artifacts import onnx as onnx_artifact


def case(name: str, *shape: int) -> Case:
    return Case(name, {"x": np.zeros(shape, np.float32), "z": np.zeros(4, np.float32)}, {}, {})


@pytest.fixture
def whole() -> Bundle:
    ports = (TensorSpec("x", "float32", ("b", 3, "h", "h")), TensorSpec("z", "float32", (4,)))
    varying = (Dim("b", max=16), Dim("h", step=8, min=16))
    cases = (case("first", 2, 3, 32, 32), case("b=5", 5, 3, 32, 32), case("small", 1, 3, 16, 16))
    return Bundle(
        Path("nowhere"),
        "n",
        ports,
        (),
        varying,
        (Artifact("model", "onnx", (Path("model.onnx"),)),),
        cases,
        {"subject": {"name": "n"}, "artifacts": [onnx_artifact()]},
    )


def test_the_cases_say_what_is_usual_and_how_far_it_goes(whole: Bundle) -> None:
    assert shapes.of(whole) == {"x": ShapeRange((1, 3, 16, 16), (2, 3, 32, 32), (5, 3, 32, 32))}


def test_a_typed_range_takes_the_place_of_the_cases(whole: Bundle) -> None:
    came = shapes.asked(whole, ["x:1x3x16x16,4x3x64x64,8x3x128x128"])
    assert came == {"x": ShapeRange((1, 3, 16, 16), (4, 3, 64, 64), (8, 3, 128, 128))}
    assert shapes.asked(whole, []) == shapes.of(whole)


def test_one_shape_stands_for_all_three_where_nothing_has_to_run(whole: Bundle) -> None:
    came = shapes.asked(whole, ["x:1x3x64x64"], cases=False)
    assert came["x"] == ShapeRange((1, 3, 64, 64), (1, 3, 64, 64), (1, 3, 64, 64))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("y:1x3x16x16", "no input 'y'; there is x, z"),
        ("1x3x16x16", "say for which input"),
        ("x:1x3x16x16,2x3x16x16", "expected --shapes"),
        ("x:1xax16x16", "expected --shapes"),
        ("x:1x3x16", "has 4 dimensions"),
        ("x:1x4x16x16", "dimension 1 of 'x' is fixed at 3"),
        ("x:4x3x16x16,1x3x16x16,8x3x32x32", "min ≤ opt ≤ max"),
        ("x:1x3x16x16,2x3x32x32,17x3x32x32", "b may be 1 to 16, got 17"),
        ("x:0x3x16x16,2x3x32x32,8x3x32x32", "b may be 1 to 16, got 0"),
        ("x:1x3x8x8,2x3x32x32,8x3x32x32", "h may be 16 to any size, got 8"),
        ("x:1x3x16x16,2x3x20x20,8x3x32x32", "h must be a multiple of 8, got 20"),
        ("x:1x3x16x16,2x3x32x32,4x3x32x32", "case 'b=5' is 5x3x32x32, and could not run"),
    ],
)
def test_what_cannot_be_is_refused_in_words(whole: Bundle, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why.replace("'", ".")):
        shapes.asked(whole, [text])


def test_a_backend_that_takes_any_shape_is_no_place_for_a_range(whole: Bundle) -> None:
    with pytest.raises(UsageError, match=r"--shapes is for backends that prepare .*; onnxruntime takes any"):
        shapes.asked(whole, ["x:1x3x16x16"], ["onnxruntime"])
    assert shapes.asked(whole, [], ["onnxruntime"]) == shapes.of(whole)


def test_what_was_typed_reaches_the_backend(whole: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: the engine's place is taken by what only notes what it was to prepare for."""
    noted: list[Options] = []

    class Backend:
        wants_shape_ranges = True

        def missing(self) -> None:
            return None

        def version(self) -> str:
            return "noting"

        @contextmanager
        def open(self, model: Path, options: Options) -> Iterator[None]:
            noted.append(options)
            raise BackendError("noted")
            yield

    monkeypatch.setattr(backends, "BACKENDS", {"tensorrt": Backend()})
    text = "x:1x3x16x16,4x3x64x64,8x3x128x128"
    with pytest.raises(BackendError, match="noted"):
        measurement.measure_bundle(whole, "tensorrt", measurement.MeasureOptions(ranges=(text,)))
    with pytest.raises(BackendError, match="noted"):
        verify.verify(whole, "tensorrt", ranges=shapes.asked(whole, [text]))
    wide = ShapeRange((1, 3, 16, 16), (4, 3, 64, 64), (8, 3, 128, 128))
    assert [options.shapes for options in noted] == [{"x": wide}, {"x": wide}]
