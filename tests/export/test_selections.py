"""Which outputs hold rows that an operator chose, and along which axis."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from torch import nn

from attn_export.api import load
from attn_export.bundle import Selection
from attn_export.export.exporting import export_subject
from attn_export.export.graph import selections
from tests import detectors

IMAGE = {"image": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)}


def graph(text: str) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("least", [0.6, 0.9999])  # what is left of the picture, or nothing
def test_what_suppression_leaves(least: float) -> None:
    model = detectors.yolo(least=least)
    (found,) = selections.found(model, IMAGE)
    assert found == Selection("NonMaxSuppression 'chosen'", {"boxes": 0, "scores": 0, "classes": 0})
    (found,) = selections.found(detectors.in_one(model), IMAGE)
    assert found.rows == {"detections": 0}


@pytest.mark.parametrize(
    ("made", "rows"),
    [
        (detectors.Queries(40), {"logits": 1, "boxes": 1}),
        (detectors.Best(40), {"scores": 1, "labels": 1, "boxes": 1}),
    ],
)
def test_what_a_decoder_makes_of_the_best_queries(made: nn.Module, rows: dict[str, int]) -> None:
    exported = export_subject(load(made.eval(), (torch.from_numpy(IMAGE["image"]),)))
    (found,) = selections.found(exported.model, IMAGE)
    assert found.rows == rows


def test_what_is_summed_up_or_put_in_order_again_was_not_chosen_there() -> None:
    model = graph(
        """(float[2,9] x) => (float[2,1] total, float[2,3] best, float[2,9] whole, float[3,2] turned)
        <int64[1] axis = {1}, int64[1] four = {4}, int64[1] three = {3}> {
          some, where = TopK(x, four)
          total = ReduceSum(some, axis)
          best, place = TopK(some, three)
          whole = Relu(x)
          turned = Transpose<perm = [1, 0]>(best)
        }"""
    )
    (found,) = selections.found(model, {"x": np.random.default_rng(0).standard_normal((2, 9)).astype(np.float32)})
    assert found == Selection("TopK 'best'", {"best": 1, "turned": 0})


def test_a_graph_that_chooses_nothing_is_not_run() -> None:
    assert selections.found(graph("(float[2] x) => (float[2] y) { y = Relu(x) }"), {}) == ()


def test_rows_of_several_operators_in_one_output_are_one_selection() -> None:
    model = graph(
        """(float[1,9] x) => (float[1,5] both, int64[1,2] place)
        <int64[1] two = {2}, int64[1] three = {3}> {
          y = Neg(x)
          a, place = TopK(x, two)
          b, other = TopK(y, three)
          both = Concat<axis = 1>(a, b)
        }"""
    )
    (found,) = selections.found(model, {"x": np.random.default_rng(0).standard_normal((1, 9)).astype(np.float32)})
    assert found.rows == {"both": 1, "place": 1}


def test_what_enters_is_what_nodes_made() -> None:
    assert set(selections.entering(detectors.yolo()).values()) == {"all_boxes", "all_scores"}
    model = graph(
        """(float[1,9] x) => (float[1,2] a, float[1,2] b, float[1,1] c)
        <int64[1] two = {2}, int64[1] one = {1}> {
          y = Neg(x)
          a, p = TopK(x, two)
          b, q = TopK(y, two)
          c, r = TopK(b, one)
        }"""
    )
    assert selections.entering(model) == {("b", 0): "y"}
