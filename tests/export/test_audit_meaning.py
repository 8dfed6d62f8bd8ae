"""The audit asks what a node means: other ways to write the same are no finding, and another meaning is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxsim
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.export.audit.attributes import audit_attributes
from attn_export.export.audit.constants import Known, auditor

node = helper.make_node
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4, 8, 8])
SEQUENCE = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, "b", 4])


def graph(
    nodes: Sequence[onnx.NodeProto], taken: onnx.ValueInfoProto = X, opset: int = 18, rank: int = 4, **tensors: Any
) -> onnx.ModelProto:
    """A model of these nodes; the last makes ``y``."""
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{axis}" for axis in range(rank)])
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", [taken], [gives], held),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )


def said(new: onnx.ModelProto, old: onnx.ModelProto) -> list[str]:
    return [finding.detail for finding in audit_attributes(new, old).findings]


def recurrent(op: str, state: float | None, **attributes: Any) -> onnx.ModelProto:
    """A recurrent layer that starts at ``state``, spread over the batch as an exporter writes it."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    inputs = ["x", "w", "r", "", ""] if state is not None else ["x", "w", "r"]
    nodes, tensors = [], dict[str, Any]()
    if state is not None:
        nodes = [
            node("Shape", ["x"], ["batch"], start=1, end=2),
            node("Concat", ["one", "batch", "three"], ["size"], axis=0),
            node("Expand", ["start", "size"], ["h"]),
        ]
        inputs += ["h", "h"] if op == "LSTM" else ["h"]
        tensors = {"one": np.int64([1]), "three": np.int64([3]), "start": np.float32([[[state]]])}
    weights = np.random.default_rng(0).standard_normal((2, 1, gates * 3, 4)).astype(np.float32)
    layer = node(op, inputs, ["y"], "layer", hidden_size=3, **attributes)
    return graph([*nodes, layer], SEQUENCE, w=weights[0], r=weights[1, :, :, :3], **tensors)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_a_zero_state_may_go_and_another_may_not(op: str) -> None:
    bare = recurrent(op, None)
    assert said(bare, recurrent(op, 0.0)) == []
    assert said(recurrent(op, 0.0), bare) == []
    states = ["initial_c", "initial_h"] if op == "LSTM" else ["initial_h"]
    assert said(bare, recurrent(op, 0.5)) == [f"expected {name} (h) an input, got None" for name in states]


def test_a_recurrent_layer_is_audited_behind_the_simplifier() -> None:
    raw = recurrent("LSTM", 0.0)
    made, _ = onnxsim.simplify(raw)
    (layer,) = [one for one in made.graph.node if one.op_type == "LSTM"]
    assert len([name for name in layer.input if name]) < 5, "the simplifier drops the zero states"
    assert auditor(Known({}), raw)(made) == ""
    layer.attribute.append(helper.make_attribute("direction", "reverse"))
    assert "expected direction forward, got reverse" in auditor(Known({}), raw)(made)


def test_default_activations_may_be_written() -> None:
    written = recurrent("GRU", None, activations=["sigmoid", "Tanh"])
    assert said(written, recurrent("GRU", None)) == []
    assert len(said(recurrent("GRU", None, activations=["Sigmoid", "Relu"]), written)) == 1


def sliced(*inputs: list[int]) -> onnx.ModelProto:
    names = ["starts", "ends", "axes", "steps"][: len(inputs)]
    tensors = {name: np.int64(value) for name, value in zip(names, inputs, strict=True)}
    return graph([node("Slice", ["x", *names], ["y"])], **tensors)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (sliced([0, 1], [9, 2**63 - 1], [1, 2], [1, 1]), True),
        (sliced([0, 1], [4, 8], [-3, -2]), True),
        (sliced([-4, -7], [4, 8], [1, 2]), True),
        (sliced([0, 0], [4, 7], [1, 2]), False),
        (sliced([0, 0], [8, 7], [3, 2]), False),
    ],
)
def test_a_slice_is_where_it_starts_and_ends(other: onnx.ModelProto, same: bool) -> None:
    assert (said(other, sliced([0, 1], [4, 8], [1, 2])) == []) is same


def pooled(**attributes: Any) -> onnx.ModelProto:
    return graph([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 1], **attributes)])


def test_automatic_padding_is_worked_out() -> None:
    assert said(pooled(pads=[0, 0, 1, 1]), pooled(auto_pad="SAME_UPPER")) == []
    assert said(pooled(pads=[1, 1, 0, 0]), pooled(auto_pad="SAME_LOWER")) == []
    assert said(pooled(pads=[0, 0, 0, 0]), pooled(auto_pad="VALID")) == []
    assert said(pooled(pads=[1, 1, 0, 0]), pooled(auto_pad="SAME_UPPER")) == [
        "expected pads [0, 0, 1, 1], got [1, 1, 0, 0]"
    ]


def test_axes_are_one_thing_as_an_attribute_and_as_an_input() -> None:
    old = graph([node("ReduceMean", ["x"], ["y"], axes=[2, 3])], opset=13)
    assert said(graph([node("ReduceMean", ["x", "axes"], ["y"])], axes=np.int64([-1, -2])), old) == []
    sums = [graph([node("CumSum", ["x", "axis"], ["y"])], axis=np.int64(axis)) for axis in (3, -1, 2)]
    assert said(sums[1], sums[0]) == []
    assert said(sums[2], sums[0]) == ["expected axis (axis) [3], got [2]"]
    every = graph([node("ReduceMean", ["x"], ["y"])])
    assert said(graph([node("ReduceMean", ["x", "axes"], ["y"])], axes=np.int64([0, 1, 2, 3])), every) == []


def test_a_constant_in_a_node_is_one() -> None:
    value = numpy_helper.from_array(np.float32(0.5))
    old = graph([node("Constant", [], ["c"], value=value), node("Mul", ["x", "c"], ["y"])])
    assert said(graph([node("Mul", ["x", "c"], ["y"])], c=np.float32(0.5)), old) == []
    assert said(graph([node("Mul", ["x", "c"], ["y"])], c=np.float32(0.6)), old)


def test_a_node_may_be_split_in_two_of_its_kind() -> None:
    old = graph([node("ReduceMean", ["x", "axes"], ["y"])], axes=np.int64([2, 3]))
    both = [node("ReduceMean", ["x", "last"], ["half"]), node("ReduceMean", ["half", "axes"], ["y"])]
    assert said(graph(both, axes=np.int64([2]), last=np.int64([3])), old) == []
    three = graph([node("Sum", ["x", "x", "x"], ["y"])])
    assert said(graph([node("Sum", ["x", "x"], ["two"]), node("Sum", ["two", "x"], ["y"])]), three) == []
    assert said(graph([node("Sum", ["x", "x"], ["y"])]), three) == ["expected number of inputs 3, got 2"]


def test_what_is_summed_in_steps_may_be_summed_at_once_and_no_less() -> None:
    """Inception joins the halves of its branches before it joins the branches; a simplifier joins all at once."""
    parts = [node("Relu", ["x"], ["a"]), node("Neg", ["x"], ["b"]), node("Abs", ["x"], ["c"])]
    steps = graph([*parts, node("Sum", ["b", "c"], ["d"]), node("Sum", ["a", "d"], ["y"])])
    once, less = (graph([*parts, node("Sum", names, ["y"])]) for names in (["a", "b", "c"], ["a", "b"]))
    assert said(once, steps) == said(steps, once) == []
    assert said(less, once) == ["expected number of inputs 3, got 2"]


def test_a_renamed_tensor_still_has_its_partner() -> None:
    def net(name: str, alpha: float) -> onnx.ModelProto:
        return graph([node("LeakyRelu", ["x"], [name], "act", alpha=alpha), node("Abs", [name], ["y"])])

    assert audit_attributes(net("b", 0.1), net("a", 0.1)).unmatched == ()
    assert said(net("b", 0.2), net("a", 0.1)) == ["expected alpha 0.10000000149011612, got 0.20000000298023224"]


def test_of_two_nodes_at_one_place_neither_is_the_partner() -> None:
    def net(one: str, two: str) -> onnx.ModelProto:
        acts = [node("LeakyRelu", ["x"], [name], alpha=alpha) for name, alpha in ((one, 0.1), (two, 0.2))]
        return graph([*acts, node("Sub", [one, two], ["y"])])

    audit = audit_attributes(net("c", "d"), net("a", "b"))
    assert audit.ok
    assert audit.unmatched == ("LeakyRelu c", "LeakyRelu d")


def test_an_addend_that_was_taken_in_is_no_finding_and_a_lost_one_is() -> None:
    weight = np.ones((4, 4, 1, 1), np.float32)
    bare = graph([node("Conv", ["x", "w"], ["y"])], w=weight)
    full = graph([node("Conv", ["x", "w", "b"], ["y"])], w=weight, b=np.ones(4, np.float32))
    none = graph([node("Conv", ["x", "w", "b"], ["y"])], w=weight, b=np.zeros(4, np.float32))
    assert said(full, bare) == []
    assert said(bare, none) == []
    one = {"w": np.ones((1, 4, 1, 1), np.float32), "b": np.ones(1, np.float32)}
    assert (
        said(graph([node("Conv", ["x", "w", "b"], ["y"])], **one), graph([node("Conv", ["x", "w"], ["y"])], **one))
        == []
    )
    assert said(bare, full) == ["expected B (b) an input, got None"]


def test_one_of_many_inputs_may_be_folded_and_a_folded_one_may_not_change() -> None:
    def joined(*sizes: int | None) -> onnx.ModelProto:
        """Reshape by a list of sizes, of which ``None`` is read off the input."""
        held = {f"n{place}": np.int64([size]) for place, size in enumerate(sizes) if size is not None}
        names = [f"n{place}" if size is not None else "batch" for place, size in enumerate(sizes)]
        nodes = [node("Shape", ["x"], ["batch"], start=0, end=1)] if None in sizes else []
        nodes += [node("Concat", names, ["size"], "joined", axis=0), node("Reshape", ["x", "size"], ["y"])]
        return graph(nodes, rank=2, **held)

    assert said(joined(1, 256), joined(None, 256)) == []
    assert said(joined(None, 256), joined(1, 256)) == []
    assert said(joined(1, 128), joined(None, 256)) == ["expected input 1 (n1) [256], got [128]"]
