"""GELU is written in the form that ONNX Runtime makes one kernel of, and keeps its bits."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from attn_export.export.onnx.gelu import scale_first
from attn_export.export.onnx.torch_export import export
from attn_export.export.subject import Subject
from attn_export.mechanisms.spec import Input
from attn_export.types import Dim


class TwoGelus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.inner(nn.functional.gelu(x)))


def _written(kind: int, *, half: float = 0.5, seen: bool = False, swapped: bool = False) -> onnx.ModelProto:
    """GELU as the exporter writes it, computed in an element type."""
    number = helper.tensor_dtype_to_np_dtype(kind)
    constants = {"root": 2**0.5, "one": 1.0, "half": half}
    last = ["s", "x"] if swapped else ["x", "s"]
    nodes = [
        helper.make_node("Div", ["x", "root"], ["z"]),
        helper.make_node("Erf", ["z"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["a"]),
        helper.make_node("Mul", ["a", "half"] if swapped else ["half", "a"], ["s"]),
        helper.make_node("Mul", last, ["y"]),
    ]
    outputs = [helper.make_tensor_value_info(name, kind, ["n"]) for name in (["y", "s"] if seen else ["y"])]
    tensors = [numpy_helper.from_array(np.asarray(value, number), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", kind, ["n"])], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE])
def test_both_forms_give_the_same_bits(kind: int, swapped: bool) -> None:
    before = _written(kind, swapped=swapped)
    after = copy.deepcopy(before)
    assert scale_first(after) == 1
    onnx.checker.check_model(after, full_check=True)
    assert scale_first(after) == 0
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(size=4000) * scale for scale in (1e-6, 1.0, 8.0)])
    feeds = {"x": x.astype(helper.tensor_dtype_to_np_dtype(kind))}
    (one,), (other,) = (ReferenceEvaluator(model).run(None, feeds) for model in (before, after))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("given", [{"half": 0.25}, {"seen": True}])
def test_what_is_no_gelu_or_is_read_elsewhere_stays(given: dict[str, float]) -> None:
    model = _written(onnx.TensorProto.FLOAT, **given)  # type: ignore[arg-type]
    before = model.SerializeToString()
    assert scale_first(model) == 0
    assert model.SerializeToString() == before


@pytest.mark.parametrize("opset", [18, 20])
def test_onnx_runtime_makes_one_kernel_of_an_exported_gelu(opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    subject = Subject("gelus", TwoGelus().eval(), (Input("x", ("b", 8)),), {"b": 2}, (Dim("b"),))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(export(subject, opset).model.SerializeToString(), options, ["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert sum("Gelu" in kind for kind in kinds) == 2
    assert not {"Erf", "Tanh"} & set(kinds)
