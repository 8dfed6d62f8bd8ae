"""NonMaxSuppression and DeformConv give what the reference implementation of ONNX gives, on random inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tests.reparam.test_exact_values import graph_of, model_of, one

Random = np.random.Generator


def by_reference(operator: str, inputs: list[Any], opset: int, **attributes: Any) -> Any:
    names = ["" if x is None else f"i{n}" for n, x in enumerate(inputs)]
    feeds = {name: np.asarray(x) for name, x in zip(names, inputs, strict=True) if name}
    graph = graph_of([helper.make_node(operator, names, ["y"], **attributes)], feeds, ["y"])
    return ReferenceEvaluator(model_of(graph, opset)).run(None, feeds)[0]


@pytest.mark.parametrize("seed", range(12))
def test_the_same_boxes_are_kept(seed: int) -> None:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 4, (2, 30, 2))
    boxes = np.concatenate([corner, corner + random.uniform(-0.5, 3, (2, 30, 2))], 2).astype(np.float32)
    scores = np.round(random.standard_normal((2, 3, 30)), 1).astype(np.float32)  # so that some are equal
    limits = [np.array([int(random.integers(0, 20))]), np.float32([random.uniform(0.1, 0.9)])]
    if seed % 3:
        limits.append(np.float32([random.uniform(-1, 1)]))
    centred = {"center_point_box": seed % 2}
    (came,) = one("NonMaxSuppression", [boxes, scores, *limits], 11, **centred)
    np.testing.assert_array_equal(came, by_reference("NonMaxSuppression", [boxes, scores, *limits], 11, **centred))
    assert came.dtype == np.int64


def test_without_a_number_of_boxes_none_is_kept() -> None:
    (came,) = one("NonMaxSuppression", [np.zeros((1, 3, 4), np.float32), np.zeros((1, 2, 3), np.float32)], 11)
    assert came.shape == (0, 3)


@pytest.mark.parametrize("seed", range(8))
def test_the_same_places_are_sampled(seed: int) -> None:
    random = np.random.default_rng(seed)
    group, own = (1, 1) if seed % 2 else (2, 2)
    step, gap, pad = 1 + seed % 2, 1 + (seed // 2) % 2, seed % 3
    height, width = ((n + 2 * pad - gap * (k - 1) - 1) // step + 1 for n, k in ((7, 3), (6, 2)))
    x = random.standard_normal((2, 4, 7, 6)).astype(np.float32)
    weight = random.standard_normal((6, 4 // group, 3, 2)).astype(np.float32)
    offset = (2 * random.standard_normal((2, own * 12, height, width))).astype(np.float32)
    bias = random.standard_normal(6).astype(np.float32) if seed % 3 else None
    mask = random.random((2, own * 6, height, width)).astype(np.float32) if seed % 4 else None
    more = {
        "group": group,
        "offset_group": own,
        "strides": [step, step],
        "dilations": [gap, gap],
        "pads": [pad, pad, pad, pad],
    }
    inputs = [x, weight, offset, bias, mask]
    (came,) = one("DeformConv", inputs, 19, **more)
    np.testing.assert_allclose(came, by_reference("DeformConv", inputs, 19, **more), rtol=1e-4, atol=1e-4)
