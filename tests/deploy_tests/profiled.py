"""A small network with one of each kind of cost, and what a bundle's manifest says of its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)


def weights(**shapes: tuple[int, ...]) -> list[TensorProto]:
    return [numpy_helper.from_array(RNG.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]


def net() -> onnx.ModelProto:
    """A convolution with its activation, a depthwise one, a pooling, a product: one of each kind of cost."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="act"),
        helper.make_node("Conv", ["b", "d"], ["c"], name="depthwise", group=32, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["e"], name="pool"),
        helper.make_node("Flatten", ["e"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "g"], ["h"], name="head", transB=1),
        helper.make_node("Softmax", ["h"], ["y"], name="soft"),
    ]
    nodes[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'stem.conv', 'conv2d']")
    nodes[0].metadata_props.add(
        key="pkg.torch.onnx.stack_trace", value='File "/a/net.py", line 7, in forward\n    return self.stem(x)'
    )
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 16, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 10])],
        weights(w=(32, 16, 3, 3), d=(32, 1, 3, 3), g=(10, 32)),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


#: What the manifest says of the nodes at 2x16x8x8, as far as a profile reads it; a test of costs holds it.
ROWS: list[dict[str, Any]] = [
    {
        "name": "first",
        "op": "Conv",
        "inputs": ("x", "w"),
        "outputs": ("a",),
        "flops": 1179648,
        "bytes": 43008,
        "module": "stem.conv",
    },
    {"name": "act", "op": "Relu", "inputs": ("a",), "outputs": ("b",), "flops": 4096, "bytes": 32768, "module": ""},
    {
        "name": "depthwise",
        "op": "Conv",
        "inputs": ("b", "d"),
        "outputs": ("c",),
        "flops": 73728,
        "bytes": 33920,
        "module": "",
    },
    {
        "name": "pool",
        "op": "GlobalAveragePool",
        "inputs": ("c",),
        "outputs": ("e",),
        "flops": 4096,
        "bytes": 16640,
        "module": "",
    },
    {"name": "flat", "op": "Flatten", "inputs": ("e",), "outputs": ("f",), "flops": 0, "bytes": 0, "module": ""},
    {"name": "head", "op": "Gemm", "inputs": ("f", "g"), "outputs": ("h",), "flops": 1280, "bytes": 1616, "module": ""},
    {"name": "soft", "op": "Softmax", "inputs": ("h",), "outputs": ("y",), "flops": 20, "bytes": 160, "module": ""},
]
