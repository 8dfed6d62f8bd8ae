"""Every operator set from 11 to 24: the same nets in the form of their time collapse alike, and stay what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.reparam.fuse_onnx import fuse_graph
from tests.reparam.old_nets import NETS, OPSETS, Net
from tests.reparam.test_onnx_graphs import run

_KERNELS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool", "BatchNormalization", "Resize", "DepthToSpace")
ROWS = [(net, opset) for net in NETS for opset in OPSETS if opset >= net.since]


def kernels(model: onnx.ModelProto) -> tuple[str, ...]:
    """Its operators with kernels, in order of execution."""
    return tuple(node.op_type for node in model.graph.node if node.op_type in _KERNELS)


def drawn(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def close(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(("net", "opset"), ROWS, ids=lambda it: it.name if isinstance(it, Net) else str(it))
def test_a_file_of_this_operator_set(net: Net, opset: int) -> None:
    model = net.model(opset)
    onnx.checker.check_model(model, full_check=True)
    fusion = fuse_graph(model)
    assert kernels(fusion.model) == net.left, [str(refusal) for refusal in fusion.refusals]
    onnx.checker.check_model(fusion.model, full_check=True)
    assert [entry.version for entry in fusion.model.opset_import] == [opset]
    assert not fusion.certificate.left_out
    assert fusion.certificate.worst <= 1e-13
    assert not fusion.rolled_back
    x = drawn(2, 4, 12, 12)
    truth = OnnxEvaluator(model).run({"x": x})["y"]
    close(run(model, x), truth)
    close(run(fusion.model, x), truth)


@pytest.mark.parametrize("net", [net for net in NETS if net.open is not None], ids=lambda net: net.name)
def test_open_sizes(net: Net) -> None:
    for opset in {net.since, OPSETS[-1]}:
        model = net.model(opset, dynamic=True)
        fusion = fuse_graph(model)
        assert kernels(fusion.model) == (net.open or net.left), [str(refusal) for refusal in fusion.refusals]
        assert fusion.certificate.worst <= 1e-13
        for shape in ((1, 4, 9, 14), (3, 4, 16, 7)):
            close(run(fusion.model, drawn(*shape)), OnnxEvaluator(model).run({"x": drawn(*shape)})["y"])
