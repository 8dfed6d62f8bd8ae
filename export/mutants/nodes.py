"""Faults in nodes and in the graph. Each function yields kind, node, the tensor it makes, and the change."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from attn_export.export.graph.index import GraphIndex, attribute, find, insert, set_attribute, set_tensor
from attn_export.export.mutants.outputs import detach
from attn_export.export.mutants.weights import Change, Fault

_POOLS = ("AveragePool", "MaxPool", "LpPool")
_BINARY = ("Add", "Mul", "Sub", "Sum", "Max", "Min")


def zeros(index: GraphIndex) -> Iterator[Fault]:
    """Give zeros for every output."""

    def change(graph: onnx.GraphProto) -> None:
        for value in graph.output:
            inner = detach(graph, value.name)
            graph.node.append(helper.make_node("Sub", [inner, inner], [value.name], f"mutant_{value.name}"))

    if all(value.type.tensor_type.elem_type != onnx.TensorProto.BOOL for value in index.graph.output):
        yield "zeros", "", "", change


def identity(index: GraphIndex) -> Iterator[Fault]:
    """Give the input itself, where an input has the output's type and shape."""
    output = index.graph.output[0]
    kind = output.type.tensor_type.elem_type
    for value in index.inputs:
        same = value.type.tensor_type.elem_type == kind and _alike(index.shape(value.name), index.shape(output.name))
        if same and index.maker.get(output.name, onnx.NodeProto()).op_type != "Identity":

            def change(graph: onnx.GraphProto, name: str = value.name) -> None:
                detach(graph, output.name)
                graph.node.append(helper.make_node("Identity", [name], [output.name], "mutant_identity"))

            yield "identity", value.name, "", change
            return


def epsilon(index: GraphIndex) -> Iterator[Fault]:
    """Take a hundred times a norm's epsilon."""
    for node in index.nodes:
        if node.op_type.endswith("Normalization") and (node.op_type != "LpNormalization"):
            value = 100 * float(attribute(node, "epsilon", 1e-5))
            yield "epsilon x100", _name(node), node.output[0], _setter(node, "epsilon", value)


def padding(index: GraphIndex) -> Iterator[Fault]:
    """Move a padded window by one: one more before, one less after, so that all shapes stay."""
    for node in index.nodes:
        pads = list(attribute(node, "pads", ()))
        if node.op_type in ("Conv", "ConvTranspose", *_POOLS):
            for axis in range(len(pads) // 2):
                if pads[(after := axis + len(pads) // 2)] > 0:
                    pads[axis], pads[after] = pads[axis] + 1, pads[after] - 1
                    yield "padding moved by one", _name(node), node.output[0], _setter(node, "pads", pads)
                    break
        elif node.op_type == "Pad" and len(node.input) > 1 and node.input[1] in index.tensors:
            moved = index.array(node.input[1]).copy()
            for axis in range(len(moved) // 2):
                if moved[(after := axis + len(moved) // 2)] > 0:
                    moved[axis], moved[after] = moved[axis] + 1, moved[after] - 1
                    name = node.input[1]
                    yield "padding moved by one", _name(node), node.output[0], _tensor_setter(name, moved)
                    break


def counted_padding(index: GraphIndex) -> Iterator[Fault]:
    """Let an average count its padding, or no longer."""
    for node in index.nodes:
        if node.op_type == "AveragePool" and any(attribute(node, "pads", ())):
            flipped = 1 - attribute(node, "count_include_pad", 0)
            yield "average counts padding", _name(node), node.output[0], _setter(node, "count_include_pad", flipped)


def softmax_axis(index: GraphIndex) -> Iterator[Fault]:
    """Normalise over the axis before, or the first axis over the one after."""
    for node in index.nodes:
        shape = index.shape(node.output[0])
        if node.op_type in ("Softmax", "LogSoftmax") and shape is not None and len(shape) > 1:
            axis = attribute(node, "axis", -1) % len(shape)
            other = axis - 1 if axis else 1
            yield "softmax over another axis", _name(node), node.output[0], _setter(node, "axis", other)


def gelu(index: GraphIndex) -> Iterator[Fault]:
    """Take the tanh form of GELU where the graph has erf."""
    for node in index.nodes:
        if node.op_type == "Gelu" and attribute(node, "approximate", "none") == "none":
            yield "tanh for erf", _name(node), node.output[0], _setter(node, "approximate", "tanh")
        elif node.op_type == "Erf":
            yield "tanh for erf", _name(node), node.output[0], _tanh(node)


def branch(index: GraphIndex) -> Iterator[Fault]:
    """Lose all but one operand of a sum or product of computed tensors."""
    for node in index.nodes:
        if node.op_type not in _BINARY or sum(map(index.computed, node.input)) < 2:
            continue
        shape = index.shape(node.output[0])
        for name in node.input:
            if index.computed(name) and _alike(index.shape(name), shape):
                yield "branch removed", f"{_name(node)} keeps {name}", node.output[0], _keeper(node, name)


WHOLE = (zeros, identity)
KINDS = (epsilon, padding, counted_padding, softmax_axis, gelu, branch)


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or node.output[0])


def _alike(one: object, other: object) -> bool:
    return one is not None and one == other and "?" not in str(one)


def _setter(node: onnx.NodeProto, name: str, value: object) -> Change:
    output = node.output[0]
    return lambda graph: set_attribute(graph.node[find(graph, output)], name, value)


def _tensor_setter(name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Change:
    return lambda graph: set_tensor(graph, name, value)


def _keeper(node: onnx.NodeProto, operand: str) -> Change:
    output = node.output[0]

    def change(graph: onnx.GraphProto) -> None:
        place = graph.node[find(graph, output)]
        place.op_type = "Identity"
        del place.input[:], place.attribute[:]
        place.input.append(operand)

    return change


def _tanh(node: onnx.NodeProto) -> Change:
    """erf(z), z = x/√2, becomes tanh( 2/√π · (z + 0.08943 z³) ), as tanh-GELU has it."""
    source, output = node.input[0], node.output[0]

    def change(graph: onnx.GraphProto) -> None:
        kind = np.float32
        set_tensor(graph, f"{output}.cube", np.asarray(2 * 0.044715 * 2 / math.sqrt(math.pi), kind))
        set_tensor(graph, f"{output}.line", np.asarray(2 / math.sqrt(math.pi), kind))
        position = find(graph, output)
        steps = [
            ("Mul", [source, source], f"{output}.square"),
            ("Mul", [f"{output}.square", f"{output}.cube"], f"{output}.scaled"),
            ("Add", [f"{output}.scaled", f"{output}.line"], f"{output}.slope"),
            ("Mul", [source, f"{output}.slope"], f"{output}.phase"),
        ]
        place = graph.node[position]
        place.op_type = "Tanh"
        place.input[0] = f"{output}.phase"
        insert(graph, position, [helper.make_node(op, ins, [out], out) for op, ins, out in steps])

    return change
