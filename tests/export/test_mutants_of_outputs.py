"""Faults of a class, a channel or a corner, and those that show on some inputs only: to the number."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.export.mutants.catalogue import Mutation, mutations
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array

RANDOM = np.random.default_rng(0)


def doubler(shape: list[int | str], opset: int = 18, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = x + x."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"], "add")], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def of_kind(model: onnx.ModelProto, kind: str) -> list[Mutation]:
    return [mutation for mutation in mutations(model) if mutation.kind == kind]


def came(mutation: Mutation, model: onnx.ModelProto, **feeds: Array) -> Array:
    """What the mutant gives, by a runtime and by our own evaluation."""
    mutant = mutation.of(model)
    onnx.checker.check_model(mutant, full_check=True)
    session = onnxruntime.InferenceSession(mutant.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["y"], feeds)
    assert np.allclose(OnnxEvaluator(mutant).run(feeds)["y"], found, rtol=1e-6, atol=1e-6)
    return np.asarray(found)


SHAPES: list[list[int | str]] = [
    ["b", 5],
    ["b", 5, 6],
    ["b", 5, 6, 7],
    ["b", 5, 3, 2, 4],
    [1, 5, "h", "w"],
    ["b", "t", 6],
]


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_faults_of_one_class_or_channel(shape: list[int | str], opset: int) -> None:
    model = doubler(shape, opset)
    x = RANDOM.standard_normal([size if isinstance(size, int) else 4 for size in shape]).astype(np.float32)
    axes = sorted({1, x.ndim - 1})
    for kind, factor in (("a class zeroed", 0.0), ("one channel +1 %", 1.01)):
        found = of_kind(model, kind)
        assert sorted(mutation.where for mutation in found) == [f"y, axis {axis}" for axis in axes]
        for mutation in found:
            axis = int(mutation.where[-1])
            place = 0 if isinstance(shape[axis], str) else x.shape[axis] // 2
            wanted = 2 * x
            np.moveaxis(wanted, axis, 0)[place] *= np.float32(factor)
            assert np.allclose(came(mutation, model, x=x), wanted, rtol=1e-6)
    known = [axis for axis in axes if isinstance(shape[axis], int)]
    found = of_kind(model, "two classes swapped")
    assert sorted(mutation.where for mutation in found) == [f"y, axis {axis}" for axis in known]
    for mutation in found:
        axis = int(mutation.where[-1])
        order = [1, 0, *range(2, x.shape[axis])]
        assert np.array_equal(came(mutation, model, x=x), (2 * x).take(order, axis))


def test_one_class_is_not_zeroed_alone() -> None:
    """All of the output would be zero, which is another fault."""
    model = doubler(["b", 1, 8])
    assert [mutation.where for mutation in of_kind(model, "a class zeroed")] == ["y, axis 2"]
    assert len(of_kind(model, "one channel +1 %")) == 2


@pytest.mark.parametrize("shape", [["b", 5, 6], ["b", 5, 6, 7], ["b", 5, "h", "w"]], ids=str)
def test_the_corner_alone_is_wrong(shape: list[int | str]) -> None:
    model = doubler(shape)
    x = RANDOM.standard_normal([size if isinstance(size, int) else 4 for size in shape]).astype(np.float32)
    (mutation,) = of_kind(model, "wrong at the border")
    wanted = 2 * x
    wanted[(..., *[0] * (x.ndim - 2))] *= 2
    assert np.array_equal(came(mutation, model, x=x), wanted)
    assert not of_kind(doubler(["b", 5]), "wrong at the border")


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
@pytest.mark.parametrize(
    ("kind", "silent", "loud"),
    [
        ("wrong beyond a batch of 8", np.ones((8, 5)), -np.ones((9, 5))),
        ("wrong on non-negative inputs", np.array([[1, 2, -1e-9]]), np.array([[0, 2, 3]])),
        ("wrong on constant inputs", np.array([[1, 1, 1.5]]), np.array([[-2, -2, -2]])),
    ],
)
def test_a_fault_that_shows_on_some_inputs_only(kind: str, silent: Array, loud: Array, opset: int) -> None:
    model = doubler(["b", silent.shape[1]], opset)
    (mutation,) = of_kind(model, kind)
    assert mutation.condition is not None
    assert mutation.condition.met is not None
    for values, factor in ((silent, 2), (loud, 4)):
        x = values.astype(np.float32)
        assert mutation.condition.met({"x": x}) is (factor == 4)
        assert np.array_equal(came(mutation, model, x=x), factor * x)


def test_a_fixed_batch_has_none_beyond_it() -> None:
    assert not of_kind(doubler([1, 5]), "wrong beyond a batch of 8")


def test_every_output_of_floating_point_has_its_faults() -> None:
    model = doubler(["b", 5])
    model.graph.node.append(helper.make_node("Neg", ["y"], ["z"], "neg"))
    model.graph.node.append(helper.make_node("ArgMax", ["y"], ["best"], "best", axis=1))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["b", 5]))
    model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, ["b", 1]))
    for kind in ("a class zeroed", "wrong on constant inputs"):
        found = of_kind(model, kind)
        assert [mutation.node for mutation in found if mutation.node] == [mutation.node for mutation in found]
        assert sorted(mutation.node for mutation in found) == ["y", "z"]
    (mutation,) = [one for one in of_kind(model, "a class zeroed") if one.node == "y"]
    x = RANDOM.standard_normal((2, 5)).astype(np.float32)
    exact = OnnxEvaluator(mutation.of(model)).run({"x": x})
    assert np.array_equal(exact["z"], -2 * x.astype(np.float64)), "what reads the output inside is as it was"


def table(opset: int = 18) -> onnx.ModelProto:
    """y = the rows of a table."""
    rows = RANDOM.standard_normal((7, 3)).astype(np.float32)
    values = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4, 3]),
    ]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"], "look")],
        "g",
        values[:1],
        values[1:],
        [numpy_helper.from_array(rows, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def test_a_row_of_an_embedding_is_forgotten() -> None:
    model = table()
    found = of_kind(model, "a row of an embedding zeroed")
    assert {mutation.where for mutation in found} == {"table[6]", "table[3]"}
    for mutation in found:
        row = int(mutation.where[-2])
        assert mutation.condition is not None
        assert mutation.condition.met is not None
        for ids in ([[0, 1, 2, 4]], [[0, row, 2, 4]], [[0, 1, 2, row - 7]]):
            feeds = {"ids": np.asarray(ids, np.int64)}
            wanted = OnnxEvaluator(model).run(feeds)["y"]
            zero = (feeds["ids"] == row) | (feeds["ids"] == row - 7)
            assert mutation.condition.met(feeds) is bool(zero.any())
            assert np.allclose(came(mutation, model, **feeds), np.where(zero[..., None], 0, wanted), rtol=1e-6)


def test_a_row_that_is_always_read_or_zero_is_left_alone() -> None:
    model = table()
    model.graph.initializer.append(numpy_helper.from_array(np.int64([[0, 1, 2, 3]]), "fixed"))
    model.graph.node[0].input[1] = "fixed"
    assert not of_kind(model, "a row of an embedding zeroed")


def masked(kind: int, name: str = "mask") -> onnx.ModelProto:
    """y = x where the mask lets it through."""
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 5]),
        helper.make_tensor_value_info(name, kind, ["b", 5]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 5]),
    ]
    nodes = [
        helper.make_node("Cast", [name], ["m"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "m"], ["y"]),
    ]
    return helper.make_model(
        helper.make_graph(nodes, "g", values[:2], values[2:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )


@pytest.mark.parametrize(
    ("kind", "name", "letting"),
    [
        (TensorProto.BOOL, "keep", [1]),
        (TensorProto.INT64, "attention_mask", [1]),
        (TensorProto.FLOAT, "src_Mask", [0, 1]),
        (TensorProto.FLOAT, "other", []),
    ],
)
def test_a_mask_is_ignored(kind: int, name: str, letting: list[int]) -> None:
    model = masked(kind, name)
    found = of_kind(model, "a mask ignored")
    assert len(found) == len(letting)
    dtype: Any = helper.tensor_dtype_to_np_dtype(kind)
    x = RANDOM.standard_normal((2, 5)).astype(np.float32)
    for mutation, value in zip(
        found, sorted(letting, key=lambda one: found[0].where.find(f", {one} ") < 0), strict=True
    ):
        assert mutation.condition is not None
        assert mutation.condition.met is not None
        for mask in (np.full((2, 5), value), np.eye(2, 5)):
            feeds = {"x": x, name: mask.astype(dtype)}
            assert mutation.condition.met(feeds) is bool((mask != value).any())
            assert np.array_equal(came(mutation, model, **feeds), x * np.float32(value))
