"""Nodes beside those of the catalogue: other ranks, attributes and operators that networks in the wild have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.probes.probe import LEAST, MOST, Probe, coarse, whole

#: The opset that the catalogue is exported in, and one of before operators took their axes as operands.
NEW, OLD = 18, 12


@dataclass(frozen=True)
class Node:
    """One node to be tried.

    Attributes:
        op: its operator.
        inputs: shapes of computed operands, or arrays of constant ones; None for one that is left out.
        attributes: of the node.
        outputs: how many it has.
        opset: of the graph.
        positive: whether its operands have no negative values.
        ints: the positions of operands that are indices, with the number below which they are.
    """

    op: str
    inputs: tuple[tuple[int, ...] | NDArray[Any] | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = NEW
    positive: bool = False
    ints: Mapping[int, int] = field(default_factory=dict)


def probes(known: set[str]) -> Iterator[Probe]:
    """Make a probe of each node whose form is not ``known`` yet; ``known`` grows."""
    for probe in map(made, nodes()):
        if not known.intersection(probe.forms):
            known.update(probe.forms)
            yield probe


def made(node: Node) -> Probe:
    """Make the graph of one node, with drawn operands."""
    rng = np.random.default_rng(0)
    names, ports, constants, feeds = [], [], [], {}
    for index, one in enumerate(node.inputs):
        name = "" if one is None else f"x{index}"
        names.append(name)
        if isinstance(one, np.ndarray):
            constants.append(numpy_helper.from_array(one, name))
        elif one is not None:
            value = _drawn(rng, one, positive=node.positive, below=node.ints.get(index))
            feeds[name] = value
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            ports.append(helper.make_tensor_value_info(name, kind, value.shape))
    outputs = [f"y{index}" for index in range(node.outputs)]
    body = helper.make_node(node.op, names, outputs, name=node.op, **node.attributes)
    graph = helper.make_graph([body], "probe", ports, [helper.make_empty_tensor_value_info(n) for n in outputs])
    graph.initializer.extend(constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.opset)], ir_version=10)
    return whole(model, feeds, f"drawn: {node.op}")


def gelu(shape: tuple[int, ...]) -> Probe:
    """Make the graph of a GELU as exporters write it out: it is told by its error function."""
    numbers = {"root": 2**0.5, "one": 1.0, "half": 0.5}
    steps = (
        ("Div", ["x", "root"], "d"),
        ("Erf", ["d"], "e"),
        ("Add", ["e", "one"], "a"),
        ("Mul", ["x", "a"], "m"),
        ("Mul", ["m", "half"], "y"),
    )
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [output], name=f"gelu_{output}") for op, inputs, output in steps],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", NEW)], ir_version=10)
    x = _drawn(np.random.default_rng(0), shape, positive=False, below=None)
    return whole(model, {"x": x}, "drawn: GELU")


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], *, positive: bool, below: int | None) -> NDArray[Any]:
    if below is not None:
        return rng.integers(0, below, shape).astype(np.int64)
    sign = 1.0 if positive else rng.choice((-1.0, 1.0), shape)
    return coarse(rng.uniform(LEAST, MOST, shape) * sign)


def _w(*shape: int) -> NDArray[Any]:
    """Draw a constant."""
    return coarse(np.random.default_rng(len(shape)).uniform(-1, 1, shape))


def _p(*shape: int) -> NDArray[Any]:
    """Draw a constant without negative values."""
    return coarse(np.random.default_rng(len(shape)).uniform(LEAST, MOST, shape))


def _i(*values: int) -> NDArray[Any]:
    return np.array(values, np.int64)


Shapes = tuple[tuple[int, ...], ...]
IMAGE, TOKENS, ROW = (1, 8, 16, 16), (1, 12, 16), (1, 16)
#: Inputs of rank 2 to 6.
RANKS: Shapes = (ROW, TOKENS, IMAGE, (1, 4, 6, 8, 8), (1, 2, 3, 4, 6, 8))


def nodes() -> Iterator[Node]:
    """Give all of them."""
    yield from _windows()
    yield from _elementwise()
    yield from _reductions()
    yield from _movements()
    yield from _products()
    yield from _norms()
    yield from _choices()


def _windows() -> Iterator[Node]:
    even = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    weights = _w(8, 8, 3, 3)
    yield Node("Conv", (IMAGE, weights), {**even, "strides": [2, 2]})
    yield Node("Conv", (IMAGE, weights), {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "strides": [2, 2]})
    yield Node("Conv", (IMAGE, weights), {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]})
    yield Node("Conv", (IMAGE, weights), {"kernel_shape": [3, 3], "dilations": [2, 2]})
    yield Node("Conv", (IMAGE, weights), {"kernel_shape": [3, 3], "dilations": [2, 2], "strides": [2, 2]})
    yield Node("Conv", (IMAGE, weights, _w(8)), {**even})
    yield Node("Conv", (IMAGE, weights), {**even, "strides": [2, 1]})
    yield Node("Conv", (IMAGE, _w(8, 2, 3, 3)), {**even, "group": 4})
    yield Node("Conv", (IMAGE, _w(16, 1, 3, 3)), {**even, "group": 8})
    yield Node("Conv", (IMAGE, _w(8, 1, 3, 3), _w(8)), {**even, "group": 8, "dilations": [2, 2]})
    yield Node("Conv", (IMAGE, (8, 8, 3, 3)), even)
    yield Node("Conv", (IMAGE, (8, 1, 3, 3)), {**even, "group": 8})
    for bias in ((), (_w(8),)):
        for group, name in ((1, 8), (8, 1)):
            for kernel in (1, 3):
                pads = kernel // 2
                yield Node("Conv", ((1, 8, 16), _w(8, name, kernel), *bias), {"pads": [pads] * 2, "group": group})
                cube = _w(8, name, kernel, kernel, kernel)
                yield Node("Conv", ((1, 8, 6, 6, 6), cube, *bias), {"pads": [pads] * 6, "group": group})
    for bias in ((), (_w(8),)):
        yield Node("ConvTranspose", (IMAGE, _w(8, 8, 2, 2), *bias), {"strides": [2, 2]})
        yield Node("ConvTranspose", (IMAGE, _w(8, 8, 3, 3), *bias), {"strides": [2, 2], "pads": [1] * 4})
        more = {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}
        yield Node("ConvTranspose", (IMAGE, _w(8, 8, 3, 3), *bias), more)
        yield Node("ConvTranspose", (IMAGE, _w(8, 1, 4, 4), *bias), {"strides": [2, 2], "pads": [1] * 4, "group": 8})
        yield Node("ConvTranspose", ((1, 8, 16), _w(8, 8, 2), *bias), {"strides": [2]})
        yield Node("ConvTranspose", ((1, 4, 4, 4, 4), _w(4, 8, 2, 2, 2), *bias), {"strides": [2] * 3})
    for op in ("MaxPool", "AveragePool"):
        yield Node(op, (IMAGE,), {"kernel_shape": [2, 2], "strides": [2, 2]})
        yield Node(op, (IMAGE,), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4})
        yield Node(op, (IMAGE,), {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4})
        yield Node(op, (IMAGE,), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]})
        yield Node(op, (IMAGE,), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})
        yield Node(op, (IMAGE,), {"kernel_shape": [5, 5], "strides": [1, 1], "pads": [2] * 4})
        yield Node(op, ((1, 8, 16),), {"kernel_shape": [2], "strides": [2]})
        yield Node(op, ((1, 8, 8, 8, 8),), {"kernel_shape": [2] * 3, "strides": [2] * 3})
    padded = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4}
    yield Node("AveragePool", (IMAGE,), {**padded, "count_include_pad": 1})
    yield Node("AveragePool", (IMAGE,), {**padded, "strides": [2, 2], "count_include_pad": 1})
    yield Node("MaxPool", (IMAGE,), {"kernel_shape": [3, 3], "dilations": [2, 2]})
    yield Node("MaxPool", (IMAGE,), {"kernel_shape": [2, 2], "strides": [2, 2]}, outputs=2)
    yield Node("LpPool", (IMAGE,), {"kernel_shape": [2, 2], "strides": [2, 2]})
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        for shape in RANKS[1:4]:
            yield Node(op, (shape,))
    yield Node("LRN", (IMAGE,), {"size": 5})


_ACTIVATIONS = (
    "Abs Ceil Cos Elu Erf Exp Floor HardSigmoid HardSwish LeakyRelu Mish Neg Relu Round Selu Sigmoid Sign Sin Softplus "
    "Softsign Tan Tanh Atan ThresholdedRelu Celu Identity Gelu"
)


def _elementwise() -> Iterator[Node]:
    for op in _ACTIVATIONS.split():
        opset = 20 if op == "Gelu" else NEW
        for shape in (ROW, TOKENS, IMAGE, RANKS[3]):
            yield Node(op, (shape,), opset=opset)
    for approximate in ("none", "tanh"):
        for shape in (TOKENS, IMAGE):
            yield Node("Gelu", (shape,), {"approximate": approximate}, opset=20)
    for op in ("Log", "Sqrt", "Reciprocal"):
        for shape in (ROW, TOKENS, IMAGE, RANKS[3]):
            yield Node(op, (shape,), positive=True)
    for op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        yield Node(op, (IMAGE, IMAGE))
        yield Node(op, (IMAGE, (1, 8, 1, 1)))
        yield Node(op, ((1, 8, 1, 1), IMAGE))
        yield Node(op, (IMAGE, (1, 1, 16, 16)))
        yield Node(op, (IMAGE, (1, 8, 1, 16)))
        yield Node(op, (IMAGE, _w(1, 8, 1, 1)))
        yield Node(op, (IMAGE, _w(8, 1, 1)))
        yield Node(op, (IMAGE, np.array(0.5, np.float32)))
        yield Node(op, (np.array(0.5, np.float32), IMAGE))
        yield Node(op, (IMAGE, np.array([0.5], np.float32)))
        yield Node(op, (TOKENS, TOKENS))
        yield Node(op, (TOKENS, (1, 12, 1)))
        yield Node(op, (TOKENS, (1, 1, 16)))
        yield Node(op, (TOKENS, _w(16)))
        yield Node(op, (TOKENS, _w(1, 12, 16)))
        yield Node(op, (TOKENS, _w(1, 1, 16)))
        yield Node(op, (TOKENS, np.array(0.5, np.float32)))
        yield Node(op, (ROW, ROW))
        yield Node(op, (ROW, _w(16)))
        yield Node(op, (RANKS[3], RANKS[3]))
        yield Node(op, (RANKS[3], (1, 4, 6, 1, 1)))
        yield Node(op, (RANKS[4], RANKS[4]))
    for shape in (ROW, TOKENS, IMAGE, RANKS[3]):
        yield Node("Pow", (shape, np.array(2, np.float32)))
        yield Node("Pow", (shape, np.array(0.5, np.float32)), positive=True)
        yield Node("Clip", (shape, np.array(0, np.float32), np.array(1, np.float32)))
        yield Node("Clip", (shape, np.array(0, np.float32)))
        yield Node("Sum", (shape, shape, shape))
        yield Node("Mean", (shape, shape))
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
            yield Node(op, (shape, np.array(0.5, np.float32)))
        yield Node("Where", (np.ones(shape, bool), shape, np.array(-1.0, np.float32)))
        yield Node("Where", (np.arange(np.prod(shape)).reshape(shape) % 3 == 0, shape, shape))
    yield Node("PRelu", (IMAGE, _w(8, 1, 1)))
    yield Node("PRelu", (IMAGE, _w(1)))
    yield Node("PRelu", (TOKENS, _w(1)))
    yield Node("PRelu", (TOKENS, _w(12, 1)))
    yield Node("Mod", (IMAGE, np.array(0.7, np.float32)), {"fmod": 1})
    for kind in (1, 6, 7, 10, 9):
        yield Node("Cast", (IMAGE,), {"to": kind})
    yield Node("IsNaN", (IMAGE,))


def _reductions() -> Iterator[Node]:
    ops = ("Mean", "Sum", "Max", "Min", "L2", "Prod", "L1", "LogSumExp", "SumSquare")
    places = (
        (ROW, (-1,)),
        *((TOKENS, axes) for axes in ((1,), (2,), (1, 2))),
        *((IMAGE, axes) for axes in ((1,), (2,), (3,), (2, 3), (1, 2, 3))),
        (RANKS[3], (4,)),
        (RANKS[3], (1,)),
        (RANKS[3], (2, 3, 4)),
    )
    for op in ops:
        for shape, axes in places:
            for keep in (1, 0):
                yield Node(f"Reduce{op}", (shape, _i(*axes)), {"keepdims": keep})
                yield Node(f"Reduce{op}", (shape,), {"keepdims": keep, "axes": list(axes)}, opset=OLD)
        yield Node(f"Reduce{op}", (IMAGE,), {"keepdims": 0})
    for shape, axis in ((ROW, 1), (TOKENS, 2), (TOKENS, 1), (IMAGE, 1), (IMAGE, 3)):
        for op in ("ArgMax", "ArgMin"):
            for keep in (1, 0):
                yield Node(op, (shape,), {"axis": axis, "keepdims": keep})
    for shape in RANKS:
        for axis in range(1, len(shape)):
            yield Node("Softmax", (shape,), {"axis": axis})
            yield Node("LogSoftmax", (shape,), {"axis": axis})
    for shape in RANKS[:3]:
        yield Node("Softmax", (shape,), {"axis": 1}, opset=OLD)
        yield Node("CumSum", (shape, np.array(1, np.int64)))
        yield Node("Hardmax", (shape,), {"axis": -1})


def _movements() -> Iterator[Node]:
    for perm in ((0, 2, 1), (0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2), (0, 2, 1, 3), (0, 2, 1, 3, 4), (0, 1, 2, 4, 3)):
        yield Node("Transpose", (RANKS[len(perm) - 2],), {"perm": perm})
    for perm in ((1, 0, 2), (2, 0, 1), (1, 0, 2, 3), (2, 0, 3, 1, 4), (0, 1, 3, 2, 4), (0, 3, 4, 1, 2)):
        yield Node("Transpose", (RANKS[len(perm) - 2],), {"perm": perm})
    for six in ((0, 1, 3, 5, 2, 4), (0, 1, 3, 2, 4, 5), (0, 2, 4, 1, 3, 5), (0, 3, 5, 1, 2, 4)):
        yield Node("Transpose", (RANKS[4],), {"perm": six})
    yield Node("Transpose", (ROW,), {"perm": (1, 0)})
    targets: Shapes = ((1, 8, 256), (1, 2048), (8, 256), (1, 2, 4, 256), (16, 8, 16))
    targets += ((1, 2, 4, 16, 16), (1, 2, 4, 4, 4, 16))
    sources: Shapes = ((1, 2048), (1, 8, 256), IMAGE, (1, 2, 4, 16, 16), (1, 2, 4, 4, 4, 16))
    for shape in sources:
        for to in targets:
            if to != shape:
                yield Node("Reshape", (shape, _i(*to)))
    for shape in RANKS[:4]:
        last = len(shape) - 1
        for axis in range(1, len(shape)):
            yield Node("Concat", (shape, shape), {"axis": axis})
            yield Node("Split", (shape,), {"axis": axis, "num_outputs": 2}, outputs=2)
            yield Node("Unsqueeze", (shape, _i(axis)))
            yield Node("Unsqueeze", (shape,), {"axes": [axis]}, opset=OLD)
            yield Node("Slice", (shape, _i(1), _i(4), _i(axis)))
            yield Node("Slice", (shape, _i(0), _i(4), _i(axis), _i(2)))
            yield Node("Slice", (shape, _i(-1), _i(-(2**62)), _i(axis), _i(-1)))
            yield Node("Gather", (shape, _i(0, 2, 1)), {"axis": axis})
            yield Node("Gather", (shape, np.array(1, np.int64)), {"axis": axis})
            one = tuple(1 if place == axis else size for place, size in enumerate(shape))
            yield Node("Squeeze", (one, _i(axis)))
            yield Node("Squeeze", (one,), {"axes": [axis]}, opset=OLD)
            yield Node("Expand", (one, _i(*shape)))
            yield Node("Tile", (shape, _i(*(2 if place == axis else 1 for place in range(len(shape))))))
            pads = [0] * len(shape) * 2
            pads[axis] = pads[axis + len(shape)] = 1
            for mode in ("constant", "reflect", "edge"):
                yield Node("Pad", (shape, _i(*pads)), {"mode": mode})
        yield Node("Concat", (shape, shape, shape, shape), {"axis": last})
        yield Node("Flatten", (shape,), {"axis": 1})
    for mode in ("constant", "reflect", "edge", "wrap"):
        yield Node("Pad", (IMAGE, _i(0, 0, 1, 1, 0, 0, 1, 1)), {"mode": mode})
        yield Node("Pad", (IMAGE,), {"mode": "constant", "pads": [0, 0, 1, 1, 0, 0, 1, 1]}, opset=10)
    yield Node("Pad", (IMAGE, _i(0, 0, 1, 1, 0, 0, 1, 1), np.array(1.0, np.float32)), {"mode": "constant"})
    for mode in ("nearest", "linear", "cubic"):
        for coordinates in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"):
            for scale in (2.0, 0.5, 1.5):
                more = {"mode": mode, "coordinate_transformation_mode": coordinates}
                if mode == "nearest":
                    more["nearest_mode"] = "floor"
                yield Node("Resize", (IMAGE, None, np.array([1, 1, scale, scale], np.float32)), more)
    half = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    yield Node("Resize", (IMAGE, None, None, _i(1, 8, 24, 24)), half)
    yield Node("Resize", (IMAGE, None, None, _i(1, 8, 32, 32)), half)
    yield Node("Resize", (IMAGE, None, np.array([1, 1, 0.5, 0.5], np.float32)), {**half, "antialias": 1})
    for mode in ("DCR", "CRD"):
        yield Node("DepthToSpace", (IMAGE,), {"blocksize": 2, "mode": mode})
    yield Node("SpaceToDepth", (IMAGE,), {"blocksize": 2})
    yield Node("Trilu", ((1, 12, 12),), {"upper": 0})
    yield Node("Col2Im", ((1, 72, 196), _i(16, 16), _i(3, 3)))


def _products() -> Iterator[Node]:
    yield Node("MatMul", (ROW, _w(16, 8)))
    for shape in (TOKENS, IMAGE, RANKS[3]):
        yield Node("MatMul", (shape, _w(shape[-1], 8)))
        other = (*shape[:-2], shape[-1], shape[-2])
        yield Node("MatMul", (shape, other))
        yield Node("MatMul", (_w(shape[-1], shape[-2]), shape))
        yield Node("MatMul", (shape, _w(*other)))
    yield Node("MatMul", ((1, 4, 12, 16), (1, 1, 16, 12)))
    yield Node("MatMul", ((4, 12, 16), (4, 16, 12)))
    for bias in ((), (_w(8),), (_w(1, 8),)):
        for transposed in (0, 1):
            weights = _w(8, 16) if transposed else _w(16, 8)
            yield Node("Gemm", (ROW, weights, *bias), {"transB": transposed})
    yield Node("Gemm", (ROW, (16, 8)))
    yield Node("Gemm", (ROW, (8, 16)), {"transB": 1})
    yield Node("Gemm", ((16, 4), _w(16, 8)), {"transA": 1})
    for equation in ("bij,bjk->bik", "bhid,bhjd->bhij", "bchw,cd->bdhw", "bnc,bnd->bcd"):
        shapes = {"b": 1, "i": 6, "j": 8, "k": 10, "h": 4, "d": 8, "c": 8, "w": 4, "n": 6}
        sides = [tuple(shapes[letter] for letter in side) for side in equation.partition("->")[0].split(",")]
        yield Node("Einsum", tuple(sides), {"equation": equation})
    heads = (1, 4, 12, 16)
    yield Node("Attention", (heads, heads, heads), {}, opset=23)
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        one = _w(1, gates * 8, 16), _w(1, gates * 8, 8), _w(1, gates * 16)
        yield Node(op, ((6, 1, 16), *one), {"hidden_size": 8})
        both = _w(2, gates * 8, 16), _w(2, gates * 8, 8), _w(2, gates * 16)
        yield Node(op, ((6, 1, 16), *both), {"hidden_size": 8, "direction": "bidirectional"})


def _norms() -> Iterator[Node]:
    for shape in (ROW, TOKENS, IMAGE, RANKS[3]):
        channels = shape[1]
        yield Node("BatchNormalization", (shape, _w(channels), _w(channels), _w(channels), _p(channels)))
        if len(shape) > 2:
            yield Node("InstanceNormalization", (shape, _w(channels), _w(channels)))
            yield Node("GroupNormalization", (shape, _w(channels), _w(channels)), {"num_groups": 2}, opset=21)
        last = shape[-1]
        yield Node("LayerNormalization", (shape, _w(last), _w(last)), {"axis": -1})
        yield Node("LayerNormalization", (shape, _w(last)), {"axis": -1})
        yield Node("RMSNormalization", (shape, _w(last)), {"axis": -1}, opset=23)
        yield Node("LpNormalization", (shape,), {"axis": 1, "p": 2})
    whole_image = _w(*IMAGE[1:])
    yield Node("LayerNormalization", (IMAGE, whole_image, whole_image), {"axis": 1})


def _choices() -> Iterator[Node]:
    yield Node("Gather", (_w(32, 16), (1, 12)), {"axis": 0}, ints={1: 32})
    yield Node("Gather", (TOKENS, (4,)), {"axis": 1}, ints={1: 12})
    for shape in (TOKENS, IMAGE):
        yield Node("GatherElements", (shape, shape), {"axis": len(shape) - 1}, ints={1: shape[-1]})
        yield Node("TopK", (shape, _i(4)), {"axis": -1}, outputs=2)
    yield Node("GatherND", (TOKENS, np.array([[[0, 1], [0, 3]]], np.int64)))
    yield Node("ScatterND", (TOKENS, np.array([[0, 1], [0, 3]], np.int64), (2, 16)))
    yield Node("ScatterElements", (ROW, np.array([[0, 3, 5]], np.int64), (1, 3)), {"axis": 1})
    yield Node("NonZero", (ROW,))
    boxes, scores = np.array([8], np.int64), np.array([0.5], np.float32)
    yield Node("NonMaxSuppression", ((1, 12, 4), (1, 2, 12), boxes, scores, scores))
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding in ("zeros", "border"):
            for aligned in (0, 1):
                more = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
                yield Node("GridSample", (IMAGE, (1, 6, 6, 2)), more)
    yield Node("OneHot", ((1, 12), _i(8), np.array([0, 1], np.float32)), {"axis": -1}, ints={0: 8})
    scale, zero = np.array(0.05, np.float32), np.array(0, np.int8)
    yield Node("QuantizeLinear", (IMAGE, scale, zero))
    yield Node("DynamicQuantizeLinear", (IMAGE,), outputs=3)
    yield Node("DeformConv", (IMAGE, _w(8, 8, 3, 3), (1, 18, 14, 14)), {"kernel_shape": [3, 3]}, opset=22)
