"""What float16 breaks is named from ranges, and is what breaks when all is computed in float16."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_export.export.precision.float16_policy import observe
from attn_export.export.precision.hazards import hazards
from tests.export.test_equalise import build, draw, node, run


def forced(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Evaluate in float16 throughout."""
    low = onnx.ModelProto()
    low.CopyFrom(model)
    with np.errstate(all="ignore"):
        for tensor in low.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        for port in (*low.graph.input, *low.graph.output):
            port.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        del low.graph.value_info[:]
        return np.asarray(ReferenceEvaluator(low).run(None, {"x": x.astype(np.float16)})[0])


@pytest.mark.parametrize(
    ("up", "named"), [(1.0, {}), (1e5, {"a": "--equalize", "r": "--equalize", "y": "--equalize"}), (1e-9, {"a", "r"})]
)
def test_what_is_named_breaks_and_what_is_not_does_not(up: float, named: object) -> None:
    weights, x = {"w": draw(8, 8, scale=up, seed=1), "v": draw(8, 8, scale=1 / up, seed=2)}, draw(4, 8)
    model = build([node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("MatMul", "r v", "y")], weights, (4, 8))
    found = {hazard.node.name: hazard for hazard in hazards(model, observe(model, [{"x": x}]))}
    truth, came = run(model, x)[0], forced(model, x).astype(np.float64)
    near = np.linalg.norm(came - truth) < 0.01 * np.linalg.norm(truth)
    assert bool(near) is (not named)
    assert set(named) <= set(found) if named else not found  # type: ignore[call-overload]
    if isinstance(named, dict):
        assert all(text in found[name].remedy for name, text in named.items())
