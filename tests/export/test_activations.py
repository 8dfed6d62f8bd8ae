"""The peak of what lives at once, on graphs that are counted by hand."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from attn_export.export.graph.activations import peak_bytes


def graph(*nodes: onnx.NodeProto, outputs: str = "y") -> onnx.ModelProto:
    ports = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 10]) for name in names] for names in ("x", outputs)
    ]
    made = helper.make_graph(list(nodes), "g", *ports)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])


def test_a_chain_holds_two_tensors() -> None:
    chain = graph(helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"]))
    assert peak_bytes(chain, {"x": (1, 10)}) == 2 * 40


def test_a_branch_keeps_what_is_read_later() -> None:
    branch = graph(
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Add", ["x", "b"], ["y"]),
    )
    assert peak_bytes(branch, {"x": (1, 10)}) == 3 * 40


def test_a_view_takes_nothing_and_keeps_what_it_views() -> None:
    beside = graph(helper.make_node("Identity", ["x"], ["v"]), helper.make_node("Add", ["x", "v"], ["y"]))
    assert peak_bytes(beside, {"x": (1, 10)}) == 2 * 40
    later = graph(
        helper.make_node("Identity", ["x"], ["v"]),
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Add", ["b", "v"], ["y"]),
    )
    assert peak_bytes(later, {"x": (1, 10)}) == 3 * 40
