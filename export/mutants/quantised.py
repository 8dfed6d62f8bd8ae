"""Faults of quantisation: a graph with one pair of QuantizeLinear and DequantizeLinear, or one weight's codes, wrong.

weight scale halved             every weight of a layer is half of what it was
activation scale halved         the upper half of the range is cut off
activation saturated            all but a sixteenth of it
zero point off by one           what is decoded is shifted by a step
weight's zero point off by one  likewise
one scale for all channels      codes of small channels reach nothing
ranges from one image           of the one with the smallest values
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import onnx

from attn_export.export.graph.index import GraphIndex, attribute, find, set_tensor
from attn_export.export.mutants.catalogue import Mutation, in_turn
from attn_export.types import Array

Change = Callable[[onnx.GraphProto], None]
#: By tensor that is rounded, the smallest and largest number of one image.
Ranges = Mapping[str, tuple[float, float]]


def mutations(model: onnx.ModelProto, images: Sequence[Ranges] = ()) -> list[Mutation]:
    """List the faults of a quantised graph, one of each kind in turn; ``images`` are the ranges of single images."""
    index = GraphIndex(model)
    kinds: dict[str, list[Mutation]] = {}

    def add(kind: str, where: str, node: onnx.NodeProto, change: Change) -> None:
        kinds.setdefault(kind, []).append(Mutation(kind, where, node.output[0], change))

    for node in index.nodes:
        if any(name not in index.tensors for name in node.input[1:]):
            continue
        if node.op_type == "DequantizeLinear" and node.input[0] in index.tensors:
            _of_weight(index, node, add)
        elif node.op_type == "QuantizeLinear":
            for kind, factor in (("activation scale halved", 0.5), ("activation saturated", 1 / 16)):
                add(kind, node.input[0], node, _scaled(index, node.input[1], factor))
        elif node.op_type == "DequantizeLinear" and len(node.input) > 2:
            add("zero point off by one", node.input[0], node, _shifted(index, node))
    if images and (rounded := [node for node in index.nodes if node.op_type == "QuantizeLinear"]):
        smallest = min(images, key=lambda one: max((high - low for low, high in one.values()), default=0.0))
        add("ranges from one image", "", rounded[0], _ranged(index, rounded, smallest))
    return in_turn(kinds)


def _of_weight(
    index: GraphIndex, node: onnx.NodeProto, add: Callable[[str, str, onnx.NodeProto, Change], None]
) -> None:
    name = node.input[0]
    add("weight scale halved", name, node, _scaled(index, node.input[1], 0.5))
    if len(node.input) > 2:
        add("weight's zero point off by one", name, node, _shifted(index, node))
    scale, codes = np.asarray(index.array(node.input[1])), np.asarray(index.array(name))
    if scale.size < 2 or scale.max() == scale.min():
        return
    axis = int(attribute(node, "axis", 1)) % codes.ndim
    along = scale.astype(np.float64).reshape([-1 if at == axis else 1 for at in range(codes.ndim)])
    coarse = np.clip(np.rint(codes * along / scale.max()), -127, 127).astype(codes.dtype)

    def change(graph: onnx.GraphProto) -> None:
        set_tensor(graph, name, coarse)
        set_tensor(graph, node.input[1], np.full_like(scale, scale.max()))

    add("one scale for all channels", name, node, change)


def _scaled(index: GraphIndex, name: str, factor: float) -> Change:
    value = np.asarray(index.array(name) * np.float32(factor), np.float32)
    return partial(set_tensor, name=name, value=value)


def _shifted(index: GraphIndex, node: onnx.NodeProto) -> Change:
    """Give one node a zero point of its own that is one more, or one less where there is none above."""
    zero = np.asarray(index.array(node.input[2]))
    ends = np.iinfo(zero.dtype)
    moved: Array = np.where(zero < ends.max, zero + 1, zero - 1).astype(zero.dtype)
    output, name = node.output[0], f"{node.input[2]}_moved"

    def change(graph: onnx.GraphProto) -> None:
        set_tensor(graph, name, moved)
        graph.node[find(graph, output)].input[2] = name

    return change


def _ranged(index: GraphIndex, nodes: Sequence[onnx.NodeProto], image: Ranges) -> Change:
    """Scale every activation to what one image has."""
    scales = {}
    for node in nodes:
        if node.input[0] not in image or len(node.input) < 3:
            continue
        low, high = (min(image[node.input[0]][0], 0.0), max(image[node.input[0]][1], 0.0))
        zero = np.asarray(index.array(node.input[2]))
        ends = np.iinfo(zero.dtype)
        above, below = int(ends.max) - int(zero.max()), int(zero.max()) - int(ends.min)
        step = max(high / above if above else 0.0, -low / below if below else 0.0)
        if step > 0:
            scales[node.input[1]] = np.full(np.asarray(index.array(node.input[1])).shape, step, np.float32)

    def change(graph: onnx.GraphProto) -> None:
        for name, value in scales.items():
            set_tensor(graph, name, value)

    return change
