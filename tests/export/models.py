"""A small graph with one of everything that mutants are made of, and its cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from attn_export.bundle import Case
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import TensorSpec

PORTS = (TensorSpec("y", "float32", ("b", 4, 6, 6)),)


def tensor(name: str, *shape: int, seed: int = 0) -> TensorProto:
    random = np.random.default_rng([seed, len(name), *shape])
    return numpy_helper.from_array((random.standard_normal(shape) * 0.5 + 0.1).astype(np.float32), name)


def rich() -> onnx.ModelProto:
    """Convolution, pooling, two branches, GELU by erf, layer norm, softmax, a square product, y shaped as x."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv.weight", "conv.bias"], ["conv"], "n_conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("AveragePool", ["conv"], ["pool"], "n_pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Add", ["conv", "pool"], ["both"], "n_both"),
        node("Mul", ["both", "half_root"], ["scaled"], "n_scaled"),
        node("Erf", ["scaled"], ["erf"], "n_erf"),
        node("Add", ["erf", "one"], ["plus"], "n_plus"),
        node("Mul", ["both", "plus"], ["gelu"], "n_gelu"),
        node("LayerNormalization", ["gelu", "norm.weight", "norm.bias"], ["norm"], "n_norm", epsilon=1e-2),
        node("MatMul", ["norm", "linear.weight"], ["linear"], "n_linear"),
        node("Softmax", ["linear"], ["softmax"], "n_softmax", axis=-1),
        node("Add", ["softmax", "both"], ["y"], "n_sum"),
    ]
    shape = ["b", 4, 6, 6]
    graph = helper.make_graph(
        nodes,
        "rich",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            tensor("conv.weight", 4, 4, 3, 3),
            tensor("conv.bias", 4),
            tensor("norm.weight", 6),
            tensor("norm.bias", 6),
            tensor("linear.weight", 6, 6),
            numpy_helper.from_array(np.float32(0.5**0.5), "half_root"),
            numpy_helper.from_array(np.float32(1), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def quantised() -> onnx.ModelProto:
    """The small graph with its convolution in INT8, in the form that runtimes read: Q/DQ around it."""
    model = rich()
    weight = next(t for t in model.graph.initializer if t.name == "conv.weight")
    values = numpy_helper.to_array(weight)
    scale = np.float32(np.abs(values).max() / 127)
    extra = [
        numpy_helper.from_array(np.round(values / scale).astype(np.int8), "w8"),
        numpy_helper.from_array(scale, "w_scale"),
        numpy_helper.from_array(np.float32(4 / 127), "x_scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["x8"], "n_q"),
        helper.make_node("DequantizeLinear", ["x8", "x_scale", "zero"], ["x_back"], "n_dq"),
        helper.make_node("DequantizeLinear", ["w8", "w_scale", "zero"], ["w_back"], "n_dqw"),
    ]
    conv = model.graph.node[0]
    conv.input[0], conv.input[1] = "x_back", "w_back"
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(extra)
    onnx.checker.check_model(model, full_check=True)
    return model


def cases(model: onnx.ModelProto, count: int = 2) -> list[Case]:
    """Random inputs with the graph's own float64 evaluation as their truth."""
    exact, single = OnnxEvaluator(model), OnnxEvaluator(model, np.float32)
    result = []
    for seed in range(count):
        x = np.random.default_rng(seed).standard_normal((seed + 1, 4, 6, 6)).astype(np.float32)
        truth: NDArray[Any] = exact.run({"x": x})["y"]
        error = float(np.linalg.norm(single.run({"x": x})["y"].astype(np.float64) - truth))
        result.append(Case(f"seed {seed}", {"x": x}, {"y": truth}, {"y": error}))
    return result


class Conv(nn.Module):
    """A convolution, and what a test puts behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.c(x))

    def after(self, y: Tensor) -> Tensor:
        return y
