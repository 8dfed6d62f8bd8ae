"""Graphs that are rare and not wrong: they are fused or left as they are, and nothing breaks on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import attn_export
from attn_export.errors import FusionError
from attn_export.reparam.fuse_onnx import fuse_graph
from attn_export.reparam.proof import end_to_end

RANDOM = np.random.default_rng(0)
CONV = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4)
W = RANDOM.standard_normal((4, 4, 3, 3))
TENSOR = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
SEQUENCE = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)


def model(*nodes: NodeProto, output: onnx.ValueInfoProto = TENSOR, **constants: Any) -> onnx.ModelProto:
    tensors = []
    for name, array in {"w": W, **constants}.items():
        kind = np.asarray(array)
        tensors.append(numpy_helper.from_array(kind.astype(np.float32) if kind.dtype == float else kind, name))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])
    graph = helper.make_graph([CONV, *nodes], "g", [x], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(kind: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **at: Any) -> NodeProto:
    return helper.make_node(kind, inputs, outputs, **at)


NORM = ("g", "b", "m", "v")
PLAIN: dict[str, onnx.ModelProto] = {
    "a scalar output": model(node("ReduceMean", "c", keepdims=0)),
    "a sequence": model(node("SplitToSequence", "c", axis=1), output=SEQUENCE),
    "a mean that is read": model(
        node("LayerNormalization", "c", "scale", outputs=("n", "mean")),
        node("Add", "n", "mean"),
        scale=np.ones(8),
    ),
    "indices that are read": model(
        node("MaxPool", "c", outputs=("p", "i"), kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxUnpool", "p", "i", kernel_shape=[2, 2], strides=[2, 2]),
    ),
    "a norm of other lengths": model(
        node("BatchNormalization", "c", *NORM), g=np.ones(4), b=np.ones(4), m=np.ones(4), v=np.ones(3)
    ),
    "steps beyond memory": model(
        node("Conv", "c", "one", outputs=("d",), strides=[1, (1 << 31) - 1]),
        node("BatchNormalization", "d", *NORM),
        one=np.ones((4, 4, 3, 3)),
        **dict.fromkeys(NORM, np.ones(4)),
    ),
    "writes that do not fit": model(node("ScatterND", "c", "i", "u"), i=np.full((2, 4), 99), u=np.ones(2)),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nothing_breaks_on_it(name: str) -> None:
    fusion = fuse_graph(PLAIN[name])
    assert fusion.certificate.ok or fusion.certificate.left_out


def test_a_tensor_without_elements_is_left_as_it_is() -> None:
    made = model(node("Mul", "x", "s", outputs=("q",)), node("Add", "q", "e"), s=np.ones(1), e=np.zeros((0, 8)))
    del made.graph.node[0]
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 0
    assert fuse_graph(made).sites == ()


def test_functions_that_do_not_fit_their_calls_are_refused() -> None:
    made = model(helper.make_node("F", ["c", "c", "c"], ["y"], domain="z"))
    made.opset_import.append(helper.make_opsetid("z", 1))
    made.functions.append(helper.make_function("z", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], []))
    with pytest.raises(FusionError, match="functions of the model cannot be written out"):
        fuse_graph(made)


def test_a_transpose_that_only_regroups_a_batch_of_one_may_go() -> None:
    """PyTorch's own attention turns tokens to the front; what is written instead holds at that size only."""
    text = """<ir_version: 8, opset_import: ["": 17]> turned (float[1, 3, 2] x) => (float[3, 1, 2] y)
        <float[2, 2] w = {2, 1, 3, 5}, float[2] b = {3, 7}>
        { r = Relu(x)  t = Transpose <perm = [1, 0, 2]> (r)  p = MatMul(t, w)  a = Add(p, b)  y = Relu(a) }"""
    fusion = fuse_graph(onnx.parser.parse_model(text))
    assert not fusion.rolled_back
    assert [node.op_type for node in fusion.model.graph.node] == ["Relu", "MatMul", "Add", "Reshape", "Relu"]


def test_where_nothing_is_fused_the_model_is_the_very_one_and_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large networks mostly have nothing left to fuse: to copy and to run them twice in float64 would tell nothing."""

    def refuse(*_: object) -> None:
        raise AssertionError("it is run")

    monkeypatch.setattr(end_to_end, "compare", refuse)
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y)
        <float[1] s = {3}> { q = Mul(x, s)  y = Relu(q) }"""
    plain = onnx.parser.parse_model(text)
    before = plain.SerializeToString()
    fusion = fuse_graph(plain)
    assert fusion.model is plain
    assert fusion.certificate.ok
    assert not fusion.certificate.left_out
    own = attn_export.fuse(plain)
    assert own.model is not plain, "what is done with the result does not change what was given"
    assert own.model.SerializeToString() == plain.SerializeToString() == before
    with pytest.raises(AssertionError, match="it is run"):
        fuse_graph(onnx.parser.parse_model(text.replace("Relu(q)", "Mul(q, s)")))


@pytest.mark.parametrize("more", ["z = Neg(x)", "z = Mul(x, s)", ""])
def test_what_nobody_reads_goes_although_nothing_is_fused(more: str) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y)
        <float[1] s = {3}> { MORE y = Relu(x) }"""
    plain = onnx.parser.parse_model(text.replace("MORE", more))
    fusion = fuse_graph(plain)
    assert fusion.model is not plain
    assert [one.op_type for one in fusion.model.graph.node] == ["Relu"]
    assert not fusion.model.graph.initializer
