"""Bare files that read shapes and types of what is collapsed: the constants stay, what was only measured goes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attn_export.reparam.fuse_onnx import fuse_graph
from tests.reparam.test_onnx_graphs import CONV, RNG, operators, run, small

_TAIL = [helper.make_node("Relu", ["m"], ["r"]), helper.make_node("Sigmoid", ["r"], ["q"])]
_HEAD = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "s"], ["m"])]


def same(model: onnx.ModelProto, fused: onnx.ModelProto) -> None:
    onnx.checker.check_model(fused, full_check=True)
    x = RNG.standard_normal((2, 4, 9, 9)).astype(np.float32)
    assert np.allclose(run(model, x), run(fused, x), rtol=1e-4, atol=1e-5)


def test_the_shape_of_what_dies_is_a_constant() -> None:
    shape = [helper.make_node("Shape", ["c"], ["n"]), helper.make_node("Expand", ["q", "n"], ["y"])]
    model = small([*_HEAD, *_TAIL, *shape], CONV)
    fusion = fuse_graph(model)
    assert operators(fusion.model) == {"Conv": 1, "Relu": 1, "Sigmoid": 1, "Expand": 1}
    assert fusion.certificate.ok
    same(model, fusion.model)


def test_a_slice_that_is_only_measured_keeps_nothing_alive() -> None:
    nodes = [
        helper.make_node("Slice", ["c", "zero", "one", "zero"], ["part"]),
        helper.make_node("Shape", ["part"], ["n"]),
        helper.make_node("ConstantOfShape", ["n"], ["zeros"]),
        helper.make_node("Add", ["q", "zeros"], ["y"]),
    ]
    model = small([*_HEAD, *_TAIL, *nodes], CONV)
    for name, number in (("zero", 0), ("one", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
    fusion = fuse_graph(model)
    assert operators(fusion.model)["Conv"] == 1
    assert not {"Slice", "Shape", "Mul"} & set(operators(fusion.model))
    same(model, fusion.model)


def test_the_type_of_what_dies_is_a_constant() -> None:
    nodes = [helper.make_node("CastLike", ["two", "c"], ["t"]), helper.make_node("Pow", ["q", "t"], ["y"])]
    model = small([*_HEAD, *_TAIL, *nodes], CONV)
    model.graph.initializer.append(numpy_helper.from_array(np.array(2), "two"))
    fusion = fuse_graph(model)
    assert operators(fusion.model) == {"Conv": 1, "Relu": 1, "Sigmoid": 1, "Pow": 1}
    same(model, fusion.model)


def test_the_shape_of_a_dynamic_axis_stays_and_keeps_what_it_reads() -> None:
    shape = [helper.make_node("Shape", ["c"], ["n"]), helper.make_node("Expand", ["q", "n"], ["y"])]
    model = small([*_HEAD, *_TAIL, *shape], CONV)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ("b", 4, "h", "w")))
    fusion = fuse_graph(model)
    assert operators(fusion.model)["Shape"] == 1
    same(model, fusion.model)
