"""Small ONNX files of kinds that real producers write, and that a tool meets first: one function a kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

CHANNELS, SIZE = 3, 6
SHAPE: tuple[int | str | None, ...] = (1, CHANNELS, SIZE, SIZE)
KINDS: dict[str, Callable[[], ModelProto]] = {}


def kind(function: Callable[[], ModelProto]) -> Callable[[], ModelProto]:
    KINDS[function.__name__] = function
    return function


def port(name: str, shape: Sequence[Any] | None = SHAPE, dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def blocks(
    x: str = "x", y: str = "y", count: int = 2, dtype: Any = np.float32
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Convolutions with a batch norm each, and a ReLU between them: ``count`` regions to fuse."""
    random = np.random.default_rng(7)
    nodes, weights, last = [], [], x
    for index in range(count):
        name = f"block{index}"
        arrays = {"w": random.normal(size=(CHANNELS, CHANNELS, 3, 3)) * 0.3}
        arrays |= {key: random.uniform(0.5, 1.5, CHANNELS) for key in ("g", "b", "m", "v")}
        weights += [numpy_helper.from_array(array.astype(dtype), f"{name}.{key}") for key, array in arrays.items()]
        out = y if index == count - 1 else f"{name}.out"
        bn = [f"{name}.{key}" for key in ("conv", "g", "b", "m", "v")]
        nodes += [
            helper.make_node("Conv", [last, f"{name}.w"], [f"{name}.conv"], f"{name}.conv", pads=[1] * 4),
            helper.make_node("BatchNormalization", bn, [f"{name}.bn" if index < count - 1 else out], f"{name}.bn"),
        ]
        if index < count - 1:
            nodes.append(helper.make_node("Relu", [f"{name}.bn"], [out], f"{name}.relu"))
        last = out
    return nodes, weights


def model(
    nodes: Sequence[NodeProto],
    weights: Sequence[TensorProto],
    inputs: Sequence[ValueInfoProto] | None = None,
    outputs: Sequence[ValueInfoProto] | None = None,
    *,
    opset: int = 17,
    ir: int = 8,
    domains: Sequence[tuple[str, int]] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    **more: Any,
) -> ModelProto:
    taken = [port("x")] if inputs is None else inputs
    given = [port("y")] if outputs is None else outputs
    graph: GraphProto = helper.make_graph(nodes, "graph", taken, given, weights, **more)
    sets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, version) for name, version in domains)]
    return helper.make_model(graph, opset_imports=sets, ir_version=ir, functions=functions)


def typed(dtype: int) -> ModelProto:
    """An input that is cast to float32."""
    nodes, weights = blocks("cast")
    return model([helper.make_node("Cast", ["x"], ["cast"], to=1), *nodes], weights, [port("x", dtype=dtype)])


@kind
def plain() -> ModelProto:
    return model(*blocks())


@kind
def bfloat16_input() -> ModelProto:
    return typed(TensorProto.BFLOAT16)


@kind
def int32_input() -> ModelProto:
    return typed(TensorProto.INT32)


@kind
def uint8_input() -> ModelProto:
    return typed(TensorProto.UINT8)


@kind
def int8_input() -> ModelProto:
    return typed(TensorProto.INT8)


@kind
def float64_input() -> ModelProto:
    return typed(TensorProto.DOUBLE)


@kind
def float16_body() -> ModelProto:
    nodes, weights = blocks("half", "half_y", dtype=np.float16)
    casts = helper.make_node("Cast", ["x"], ["half"], to=10), helper.make_node("Cast", ["half_y"], ["y"], to=1)
    return model([casts[0], *nodes, casts[1]], weights)


@kind
def float16_whole() -> ModelProto:
    ends = [port("x", dtype=TensorProto.FLOAT16)], [port("y", dtype=TensorProto.FLOAT16)]
    return model(*blocks(dtype=np.float16), *ends)


@kind
def float64_whole() -> ModelProto:
    ends = [port("x", dtype=TensorProto.DOUBLE)], [port("y", dtype=TensorProto.DOUBLE)]
    return model(*blocks(dtype=np.float64), *ends)


def scalar(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


@kind
def quantised() -> ModelProto:
    """Codes before and behind a convolution."""
    nodes, weights = blocks("back", "real", 1)
    weights += [scalar("scale", np.float32(0.04)), scalar("zero", np.uint8(110))]
    around = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["back"]),
        *nodes,
        helper.make_node("QuantizeLinear", ["real", "scale", "zero"], ["out"]),
        helper.make_node("DequantizeLinear", ["out", "scale", "zero"], ["y"]),
    ]
    return model(around, weights)


@kind
def quantised_operator() -> ModelProto:
    random = np.random.default_rng(2)
    codes = random.integers(-60, 60, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8)
    weights = [scalar("w", codes), scalar("ws", np.float32(0.004)), scalar("wz", np.int8(0))]
    weights += [scalar("xs", np.float32(0.03)), scalar("xz", np.uint8(128))]
    weights += [scalar("ys", np.float32(0.06)), scalar("yz", np.uint8(120))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("QLinearConv", ["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["yq"], pads=[1] * 4),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    return model(nodes, weights)


@kind
def unused_domains() -> ModelProto:
    return model(*blocks(), domains=[("com.microsoft", 1), ("ai.onnx.ml", 3), ("ai.onnx.preview.training", 1)])


@kind
def newer_format() -> ModelProto:
    return model(*blocks(), ir=onnx.IR_VERSION)


def listed(ir: int, opset: int) -> ModelProto:
    nodes, weights = blocks()
    own = [port(tensor.name, tuple(tensor.dims)) for tensor in weights]
    return model(nodes, weights, [port("x"), *own], ir=ir, opset=opset)


@kind
def weights_listed() -> ModelProto:
    return listed(3, 11)


@kind
def weights_overridable() -> ModelProto:
    return listed(8, 17)


@kind
def unused_overridable() -> ModelProto:
    nodes, weights = blocks()
    weights.append(scalar("count", np.int64(3)))
    return model(nodes, weights, [port("x"), port("count", (), TensorProto.INT64)], ir=4, opset=11)


@kind
def opset7() -> ModelProto:
    return listed(3, 7)


@kind
def opset9() -> ModelProto:
    return model(*blocks(), opset=9, ir=4)


@kind
def opset10() -> ModelProto:
    return model(*blocks(), opset=10, ir=5)


@kind
def own_function() -> ModelProto:
    nodes, weights = blocks("in", "out", 1)
    names = [tensor.name for tensor in weights]
    function = helper.make_function("own", "Block", ["in", *names], ["out"], nodes, [helper.make_opsetid("", 17)])
    call = helper.make_node("Block", ["x", *names], ["y"], domain="own")
    return model([call], weights, domains=[("own", 1)], functions=[function])


@kind
def sparse_weight() -> ModelProto:
    nodes, weights = blocks()
    dense = numpy_helper.to_array(weights[0]).copy()
    dense[np.abs(dense) < 0.2] = 0
    places = np.flatnonzero(dense)
    values = numpy_helper.from_array(dense.reshape(-1)[places], weights[0].name)
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places, "places"), dense.shape)
    return model(nodes, weights[1:], sparse_initializer=[sparse])


@kind
def unordered() -> ModelProto:
    nodes, weights = blocks()
    return model(nodes[::-1], weights)


@kind
def one_name_for_all_nodes() -> ModelProto:
    made = model(*blocks())
    for node in made.graph.node:
        node.name = "layer"
    return made


@kind
def output_twice() -> ModelProto:
    return model(*blocks(), outputs=[port("y"), port("y")])


@kind
def output_without_shape() -> ModelProto:
    return model(*blocks(), outputs=[port("y", None)])


@kind
def output_without_type() -> ModelProto:
    return model(*blocks(), outputs=[ValueInfoProto(name="y")])


@kind
def output_of_another_rank() -> ModelProto:
    """As a converter leaves it behind, which no inference sees through a computed reshape."""
    nodes, weights = blocks(y="map")
    weights += [numpy_helper.from_array(np.int64([1]), "one"), numpy_helper.from_array(np.int64([-1]), "rest")]
    nodes += [
        helper.make_node("Shape", ["map"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "one", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["map", "sizes"], ["y"]),
    ]
    return model(nodes, weights, [port("x", ["n", CHANNELS, SIZE, SIZE])], [port("y", ["n", "length"])])


@kind
def stale_shapes() -> ModelProto:
    return model(*blocks(), value_info=[port("block0.out", (1, CHANNELS, 55, 55))])


@kind
def scalar_output() -> ModelProto:
    nodes, weights = blocks(y="map")
    return model([*nodes, helper.make_node("ReduceMean", ["map"], ["y"], keepdims=0)], weights, outputs=[port("y", ())])


@kind
def scalar_input() -> ModelProto:
    nodes, weights = blocks(y="map")
    return model([*nodes, helper.make_node("Mul", ["map", "t"], ["y"])], weights, [port("x"), port("t", ())])


@kind
def negative_size() -> ModelProto:
    return model(*blocks(), [port("x", (-1, *SHAPE[1:]))], [port("y", (-1, *SHAPE[1:]))])


@kind
def only_the_rank() -> ModelProto:
    return model(*blocks(), [port("x", [None] * 4)], [port("y", [None] * 4)])


@kind
def one_name_for_all_sizes() -> ModelProto:
    return model(*blocks(), [port("x", [1, CHANNELS, "?", "?"])], [port("y", [1, CHANNELS, "?", "?"])])


@kind
def no_shape_at_all() -> ModelProto:
    return model(*blocks(), [port("x", None)], [port("y", None)])


@kind
def withdrawn_operator() -> ModelProto:
    nodes, weights = blocks(y="map")
    weights += [scalar("gs", np.ones(1, np.float32)), scalar("gb", np.zeros(1, np.float32))]
    norm = helper.make_node("GroupNormalization", ["map", "gs", "gb"], ["y"], num_groups=1)
    return model([*nodes, norm], weights, opset=18)


@kind
def variance_of_zero() -> ModelProto:
    return with_weight("block0.v", np.zeros(CHANNELS))


@kind
def boolean_output() -> ModelProto:
    nodes, weights = blocks(y="map")
    over = helper.make_node("Greater", ["map", "limit"], ["y"])
    return model(
        [*nodes, over], [*weights, scalar("limit", np.float32(0))], outputs=[port("y", dtype=TensorProto.BOOL)]
    )


@kind
def infinite_mask() -> ModelProto:
    nodes, weights = blocks(y="map")
    mask = np.triu(np.full((SIZE, SIZE), -np.inf, np.float32), 1)
    nodes += [helper.make_node("Add", ["map", "mask"], ["masked"]), helper.make_node("Softmax", ["masked"], ["y"])]
    return model(nodes, [*weights, scalar("mask", mask)])


def with_weight(name: str, array: Any) -> ModelProto:
    """The plain one with another weight."""
    made = model(*blocks())
    tensor = next(tensor for tensor in made.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array, np.float32).reshape(tensor.dims), name))
    return made


REFUSED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "size of zero": (lambda: model(*blocks(), [port("x", (0, *SHAPE[1:]))]), "has the size 0 in dimension 0"),
    "negative variance": (lambda: with_weight("block1.v", [1, -1, 1]), r"negative variance \('block1.v' holds -1\)"),
    "NaN": (lambda: with_weight("block0.w", [np.nan] * 81), "'block0.w' of Conv 'block0.conv' holds NaN in 81 of 81"),
    "infinity": (lambda: with_weight("block0.g", [1, np.inf, 1]), "holds infinity in 1 of 3 places"),
    "foreign operator": (
        lambda: model(
            [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], [], domains=[("com.microsoft", 1)]
        ),
        "Gelu of the domain 'com.microsoft'.*before ONNX Runtime",
    ),
    "float8 input": (lambda: typed(TensorProto.FLOAT8E4M3FN), "input 'x' is float8e4m3fn.*cast it inside"),
    "no input": (
        lambda: model(
            [helper.make_node("Relu", ["c"], ["y"])], [scalar("c", np.ones(3, np.float32))], [], [port("y", (3,))]
        ),
        "expected a graph with inputs",
    ),
    "text input": (
        lambda: model(
            [helper.make_node("StringSplit", ["x"], ["words", "y"], delimiter=" ")],
            [],
            [port("x", (2,), TensorProto.STRING)],
            [port("y", (2,), TensorProto.INT64)],
            opset=20,
        ),
        "input 'x' is string",
    ),
    "sequence output": (
        lambda: model(
            [helper.make_node("SplitToSequence", ["x"], ["y"], axis=1)],
            [],
            outputs=[helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
        ),
        "output 'y' is a sequence of tensors",
    ),
    "sequence input": (
        lambda: model(
            [helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=1)],
            [],
            [helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)],
        ),
        "input 'x' is a sequence of tensors",
    ),
}
