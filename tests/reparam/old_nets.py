"""Nets as files of every operator set wrote them: attributes that became inputs, and operators that changed meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attn_export.types import Array

OPSETS = range(11, 25)


class Writer:
    """Writes nodes one after another in the form of one operator set; every method returns the name of its result."""

    def __init__(self, opset: int, seed: int = 0) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.random = np.random.default_rng(seed)

    def constant(self, array: Array | float | list[int]) -> str:
        """Integers become int64, all else float32."""
        given = np.asarray(array)
        typed = given.astype(
            np.int64 if given.dtype.kind == "i" else np.bool_ if given.dtype.kind == "b" else np.float32
        )
        self.tensors.append(numpy_helper.from_array(typed, f"k{len(self.tensors)}"))
        return self.tensors[-1].name

    def weight(self, *shape: int) -> str:
        """A tensor of random numbers, none of which helps by being 0 or 1."""
        return self.constant(self.random.uniform(0.3, 1, shape) * self.random.choice([-1.0, 1.0], shape))

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node; returns the name of its output, or a list of them."""
        names = [f"v{len(self.nodes)}_{n}" for n in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def numbers(self, kind: str, x: str, since: int, *, name: str, values: list[int], **attributes: Any) -> Any:
        """A node whose list of integers is an attribute before an operator set, and an input from there on."""
        if self.opset < since:
            return self.add(kind, x, **{name: values}, **attributes)
        return self.add(kind, x, self.constant(values), **attributes)

    def conv(
        self, x: str, cin: int, cout: int, kernel: int, *, bias: bool = False, groups: int = 1, **more: Any
    ) -> str:
        """A convolution with 'same' padding if nothing else is said."""
        reach = more.get("dilations", [1])[0] * (kernel - 1) // 2
        more = {"pads": [reach] * 4, "kernel_shape": [kernel, kernel], "group": groups, **more}
        weight = [self.weight(cout, cin // groups, kernel, kernel), *([self.weight(cout)] if bias else [])]
        return str(self.add("Conv", x, *weight, **more))

    def norm(self, x: str, channels: int) -> str:
        """A batch norm in evaluation mode, which older sets cannot say in any other way than by its one output."""
        variance = self.constant(self.random.uniform(0.5, 2, channels))
        more: dict[str, Any] = {"training_mode": 0} if self.opset >= 14 else {}
        names = [self.weight(channels) for _ in range(3)]
        return str(self.add("BatchNormalization", x, *names, variance, epsilon=1e-3, momentum=0.9, **more))

    def dropout(self, x: str) -> str:
        """Nothing, in evaluation mode."""
        if self.opset < 12:
            return str(self.add("Dropout", x, ratio=0.3))
        return str(self.add("Dropout", x, self.constant(0.3), self.constant(np.array(False))))

    def model(self, y: str, shape: tuple[int | str, ...], rank: int) -> onnx.ModelProto:
        """The model from x to the named result."""
        self.nodes.append(helper.make_node("Identity", [y], ["y"]))
        graph = helper.make_graph(
            self.nodes,
            "old",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{n}" for n in range(rank)])],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


def repvgg(w: Writer, x: str) -> str:
    """Three branches with norms; a dropout and an identity between; a clip behind."""
    square = w.norm(w.conv(x, 4, 4, 3), 4)
    point = w.dropout(w.norm(w.conv(x, 4, 4, 1), 4))
    total = w.add("Sum", square, w.add("Identity", point), w.norm(x, 4))
    return str(w.add("Clip", total, w.constant(0.0), w.constant(6.0)))


def average(w: Writer, x: str, *, count: int = 1, ceil: int = 0, gap: int = 1) -> str:
    """A square kernel beside a 1×1 that is averaged."""
    more: dict[str, Any] = {"dilations": [gap, gap]} if w.opset >= 19 else {}
    pool = w.add(
        "AveragePool", w.conv(x, 4, 6, 1), kernel_shape=[3, 3], strides=[2 * gap] * 2, pads=[1] * 4,
        count_include_pad=count, ceil_mode=ceil, **more,
    )  # fmt: skip
    if ceil or gap > 1:
        return str(w.add("Relu", pool))
    return str(w.add("Add", w.norm(pool, 6), w.norm(w.conv(x, 4, 6, 3, strides=[2, 2]), 6)))


def grouped(w: Writer, x: str) -> str:
    """A grouped dilated convolution, its halves exchanged and each scaled; what follows reads the halves apart."""
    y = w.norm(w.conv(x, 4, 8, 3, groups=2, dilations=[2, 2]), 8)
    if w.opset < 13:
        one, two = w.add("Split", y, outputs=2, axis=1, split=[4, 4])
    elif w.opset < 18:
        one, two = w.add("Split", y, w.constant([4, 4]), outputs=2, axis=1)
    else:
        one, two = w.add("Split", y, outputs=2, axis=1, num_outputs=2)
    scaled = w.add("Mul", two, w.weight(4, 1, 1))
    return str(w.add("LeakyRelu", w.add("Concat", scaled, one, axis=1), alpha=0.1))


def transposed(w: Writer, x: str) -> str:
    """A decoder's step: a transposed convolution, its norm, a clip with one bound."""
    y = w.add("ConvTranspose", x, w.weight(4, 3, 3, 3), w.weight(6), kernel_shape=[3, 3], strides=[2, 2],
              pads=[1, 1, 1, 1], output_padding=[1, 1], group=2, auto_pad="NOTSET")  # fmt: skip
    return str(w.add("Clip", w.norm(y, 6), w.constant(0.0)))


def enlarged(w: Writer, x: str, *, form: str = "scales") -> str:
    """Nearest upsampling, then a 1×1 and its norm, which may work on the fewer positions before."""
    region = "" if w.opset >= 13 else w.constant(np.zeros(0))
    nothing = "" if w.opset >= 13 else w.constant(np.zeros(0))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if form == "half_pixel":
        how |= {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    if form == "sizes":
        y = w.add("Resize", x, region, nothing, w.constant([2, 4, 24, 24]), **how)
    elif form == "axes" and w.opset >= 18:
        y = w.add("Resize", x, "", w.constant([2.0, 2.0]), axes=[2, 3], **how)
    elif form == "policy" and w.opset >= 18:
        y = w.add("Resize", x, "", "", w.constant([24, 30]), axes=[2, 3], keep_aspect_ratio_policy="not_larger", **how)
    else:
        y = w.add("Resize", x, region, w.constant([1.0, 1.0, 2.0, 2.0]), **how)
    return w.norm(w.conv(y, 4, 6, 1, bias=True), 6)


def shuffled(w: Writer, x: str, *, mode: str = "DCR") -> str:
    """Two convolutions, each with its pixel shuffle, summed and normed."""
    one = w.add("DepthToSpace", w.conv(x, 4, 12, 3), blocksize=2, mode=mode)
    two = w.add("DepthToSpace", w.conv(x, 4, 12, 1, bias=True), blocksize=2, mode=mode)
    return w.norm(w.add("Add", one, two), 3)


def padded(w: Writer, x: str) -> str:
    """A 1×1 without a bias, padded by an operator of its own, then a square kernel and a crop beside it."""
    y = w.conv(x, 4, 8, 1)
    if w.opset >= 18:
        y = w.add("Pad", y, w.constant([1, 2, 1, 0]), w.constant(0.0), w.constant([2, 3]), mode="constant")
    else:
        y = w.add("Pad", y, w.constant([0, 0, 1, 2, 0, 0, 1, 0]), w.constant(0.0), mode="constant")
    wide = w.norm(w.conv(y, 8, 4, 3, pads=[0, 0, 0, 0]), 4)
    return str(w.add("Sub", wide, w.conv(x, 4, 4, 1, bias=True)))


def heads(w: Writer, x: str) -> str:
    """Two heads behind a mean over space, averaged: products of both kinds, axes in both forms."""
    pooled = w.numbers("ReduceMean", x, 18, name="axes", values=[2, 3], keepdims=0)
    one = w.add("Gemm", w.add("Mul", pooled, w.weight(4)), w.weight(5, 4), w.weight(5), transB=1, alpha=0.5, beta=2.0)
    two = w.add("Add", w.add("MatMul", w.add("Flatten", pooled), w.weight(4, 5)), w.weight(5))
    return str(w.add("Div", w.add("Add", one, two), w.constant(2.0)))


def tokens(w: Writer, x: str) -> str:
    """Flattened to tokens: a linear layer there is a 1×1 here, and its norm goes over all of them."""
    y = w.add("Transpose", w.add("Reshape", w.conv(x, 4, 6, 3), w.constant([0, 6, -1])), perm=[0, 2, 1])
    y = w.add("MatMul", y, w.weight(6, 6))
    z = w.add("Slice", y, w.constant([2]), w.constant([6]), w.constant([-1]))
    z = w.numbers("Squeeze", w.numbers("Unsqueeze", z, 13, name="axes", values=[1]), 13, name="axes", values=[1])
    return str(w.add("Relu", z))


@dataclass(frozen=True)
class Net:
    """A net and what is left of its operators with kernels, in order.

    ``since`` is the set that first can say it; ``open`` what is left where sizes are open (None: they cannot be).
    """

    name: str
    write: Callable[..., str]
    left: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    since: int = 11
    rank: int = 4
    open: tuple[str, ...] | None = ()

    def model(self, opset: int, *, dynamic: bool = False) -> onnx.ModelProto:
        """The net as a file of this operator set wrote it."""
        writer = Writer(opset)
        result = self.write(writer, "x", **self.options)
        return writer.model(result, ("b", 4, "h", "w") if dynamic else (2, 4, 12, 12), self.rank)


_CONV = ("Conv",)
_MOVED, _SHUFFLED = ("Conv", "Resize"), ("Conv", "DepthToSpace")
_KEPT = ("Conv", "AveragePool", "BatchNormalization", "Conv")
NETS = [
    Net("repvgg", repvgg, _CONV),
    Net("average", average, _CONV),
    Net("average-border-less", average, _KEPT, {"count": 0}),
    Net("average-hanging", average, ("Conv", "AveragePool"), {"ceil": 1}),
    Net("average-dilated", average, ("Conv", "AveragePool"), {"gap": 2}, since=19),
    Net("grouped", grouped, _CONV),
    Net("transposed", transposed, ("ConvTranspose",)),
    Net("enlarged-scales", enlarged, _MOVED, {"form": "scales"}),
    Net("enlarged-half-pixel", enlarged, _MOVED, {"form": "half_pixel"}),
    Net("enlarged-sizes", enlarged, _MOVED, {"form": "sizes"}, open=None),
    Net("enlarged-axes", enlarged, _MOVED, {"form": "axes"}, since=18),
    Net("enlarged-policy", enlarged, _MOVED[::-1], {"form": "policy"}, since=18, open=None),
    Net("shuffled-dcr", shuffled, _SHUFFLED, {"mode": "DCR"}),
    Net("shuffled-crd", shuffled, _SHUFFLED, {"mode": "CRD"}),
    Net("padded", padded, _CONV),
    Net("heads", heads, ("Gemm",), rank=2),
    Net("tokens", tokens, _CONV, rank=3, open=("Conv", "Conv")),
]
