"""More faults than the mutants of a run: those of the detection table, in graphs and in modules before their export."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

from attn_export.export.graph.index import GraphIndex, find, insert, set_tensor
from attn_export.export.mutants.catalogue import Mutation, mutations

_ACTIVATIONS = ("Relu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "LeakyRelu", "Clip", "Erf", "Softmax")


def in_graph(model: onnx.ModelProto) -> dict[str, list[Mutation]]:
    """Every fault that can be planted in the graph, by kind."""
    rows = mutations(model)
    index = GraphIndex(model)
    for function in (_activation, _order, _swapped_tensors, _reduction, _constant, _flipped, _rounded, _repeated):
        rows += [Mutation(*fault) for fault in function(index)]
    kinds: dict[str, list[Mutation]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    return kinds


def in_module(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Folding mistakes: copies of the module in which every batch norm forgets one of its statistics."""
    if not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        return
    for kind, name, value in (
        ("running mean forgotten", "running_mean", 0.0),
        ("running variance forgotten", "running_var", 1.0),
        ("gamma forgotten", "weight", 1.0),
        ("beta forgotten", "bias", 0.0),
    ):
        broken = copy.deepcopy(module)
        for part in broken.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and getattr(part, name) is not None:
                torch.nn.init.constant_(getattr(part, name).data, value)
        yield kind, broken
    broken = copy.deepcopy(module)
    for part in broken.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eps = 1e-3
    yield "epsilon of a batch norm 1e-3", broken


Fault = tuple[str, str, str, Callable[[onnx.GraphProto], None]]


def _activation(index: GraphIndex) -> Iterator[Fault]:
    for node in index.nodes:
        if node.op_type in _ACTIVATIONS:

            def change(graph: onnx.GraphProto, output: str = node.output[0]) -> None:
                place = graph.node[find(graph, output)]
                place.op_type = "Identity"
                del place.input[1:], place.attribute[:]

            yield "activation removed", node.name, node.output[0], change


def _order(index: GraphIndex) -> Iterator[Fault]:
    for node in index.nodes:
        inputs = [name for name in node.input if name]
        same = len({index.shape(name) for name in inputs}) == 1 and len(inputs) > 1
        if node.op_type in ("Concat", "Sub", "Div") and same:

            def change(graph: onnx.GraphProto, output: str = node.output[0]) -> None:
                place = graph.node[find(graph, output)]
                names = list(place.input)[::-1]
                del place.input[:]
                place.input.extend(names)

            yield "operands in reverse order", node.name, node.output[0], change
        elif node.op_type == "Split" and len({index.shape(name) for name in node.output}) == 1:

            def swap(graph: onnx.GraphProto, output: str = node.output[0]) -> None:
                place = graph.node[find(graph, output)]
                place.output[0], place.output[1] = place.output[1], place.output[0]

            yield "parts of a split swapped", node.name, node.output[0], swap


def _swapped_tensors(index: GraphIndex) -> Iterator[Fault]:
    by_shape: dict[tuple[int, ...], str] = {}
    for name in index.floats():
        value = index.array(name)
        if value.size > 1 and (other := by_shape.get(value.shape)) and not np.array_equal(value, index.array(other)):

            def change(graph: onnx.GraphProto, one: str = other, two: str = name) -> None:
                first, second = index.array(one), index.array(two)
                set_tensor(graph, one, second)
                set_tensor(graph, two, first)

            yield "two tensors swapped", f"{other}, {name}", index.readers[other][0].output[0], change
        by_shape[value.shape] = name


def _reduction(index: GraphIndex) -> Iterator[Fault]:
    turned = {"ReduceMean": "ReduceMax", "ReduceMax": "ReduceMean", "ReduceSum": "ReduceMean"}
    for node in index.nodes:
        if node.op_type in turned:

            def change(graph: onnx.GraphProto, output: str = node.output[0], op: str = turned[node.op_type]) -> None:
                graph.node[find(graph, output)].op_type = op

            yield "another reduction", node.name, node.output[0], change


def _constant(index: GraphIndex) -> Iterator[Fault]:
    for name in index.floats():
        value = index.array(name)
        if value.size == 1 and abs(float(value.ravel()[0])) > 1e-2:

            def change(graph: onnx.GraphProto, name: str = name) -> None:
                set_tensor(graph, name, (index.array(name) * 1.01).astype(np.float32))

            yield "a constant +1 %", name, index.readers[name][0].output[0], change


def _flipped(index: GraphIndex) -> Iterator[Fault]:
    for name in index.floats():
        value = index.array(name).copy()
        if value.ndim > 1 and value[0].any():
            value[0] *= -1

            def change(
                graph: onnx.GraphProto,
                name: str = name,
                value: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = value,
            ) -> None:
                set_tensor(graph, name, value)

            yield "one channel negated", name, index.readers[name][0].output[0], change


def _rounded(index: GraphIndex) -> Iterator[Fault]:
    for kind, bits in (("weights rounded to float16", 13), ("weights rounded to bfloat16", 16)):

        def change(graph: onnx.GraphProto, bits: int = bits) -> None:
            for name in index.floats():
                value = index.array(name)
                if value.size > 1:
                    whole = np.ascontiguousarray(value, np.float32).view(np.uint32).astype(np.uint64)
                    rounded = np.asarray((whole + (1 << (bits - 1))) >> bits << bits, np.uint32)
                    set_tensor(graph, name, rounded.view(np.float32))

        yield kind, "", "", change


def _repeated(index: GraphIndex) -> Iterator[Fault]:
    """Give the first item of the batch for all of them: right at batch 1."""
    output = index.graph.output[0].name

    def change(graph: onnx.GraphProto) -> None:
        place = graph.node[find(graph, output)]
        place.output[list(place.output).index(output)] = "all_items"
        set_tensor(graph, "first", np.asarray([0], np.int64))
        nodes = [
            helper.make_node("Gather", ["all_items", "first"], ["first_item"], axis=0),
            helper.make_node("Shape", ["all_items"], ["all_shape"]),
            helper.make_node("Expand", ["first_item", "all_shape"], [output]),
        ]
        insert(graph, len(graph.node), nodes)

    yield "first item for the whole batch", "", "", change
