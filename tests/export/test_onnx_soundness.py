"""Types that no table has are refused before anybody looks them up."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from attn_export.errors import SubjectError
from attn_export.export.onnx.read import read_model


@pytest.mark.parametrize("place", ["input", "output", "value_info"])
def test_an_element_type_that_onnx_does_not_know_is_refused(tmp_path: Path, place: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    x, m, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xmy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], value_info=[m]))
    onnx.save(model, tmp_path / "right.onnx")
    read_model(tmp_path / "right.onnx")
    getattr(model.graph, place)[0].type.tensor_type.elem_type = 1 << 30
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(SubjectError, match="ONNX does not know"):
        read_model(tmp_path / "wrong.onnx")
