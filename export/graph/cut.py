"""Cut a graph open: a model that gives inner tensors, and the part between two tensors as a model of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from attn_export.export.graph.index import GraphIndex
from attn_export.reparam.adapters.onnx.nodes import inputs_of
from attn_export.types import Array

#: Runs a model on fixed inputs and gives the named tensors, one by one.
Probe = Callable[[Sequence[str]], Iterable[tuple[str, Array]]]


def exposed(model: onnx.ModelProto, names: Iterable[str], given: Mapping[str, Array] | None = None) -> onnx.ModelProto:
    """Copy a model so that its outputs are the named tensors, without the nodes that they do not need.

    Where tensors are ``given``, of whatever sizes, they are inputs and not computed; inputs that nothing reads go, too.
    """
    wanted = list(dict.fromkeys(names))
    index = GraphIndex(model)
    live, needed = set(wanted), []
    for node in reversed(model.graph.node):
        if live.difference(given or ()) & set(node.output):
            needed.append(node)
            live |= set(inputs_of(node))
    made = {name for node in needed for name in node.output}
    # Old producers list constants as well, and here some of those go.
    real = {value.name for value in index.inputs} if given is None else set[str]()
    inner = [name for name in given or () if name in live and name in index.maker]
    graph = helper.make_graph(
        needed[::-1],
        model.graph.name,
        [
            *(value for value in model.graph.input if value.name in real or value.name in live),
            *(helper.make_tensor_value_info(name, _kind((given or {})[name]), None) for name in inner),
        ],
        [_value(name, index.declared(name)) for name in wanted if name in made],
        [tensor for tensor in model.graph.initializer if tensor.name in live],
    )
    return _like(model, graph)


def extract(
    model: onnx.ModelProto, positions: Sequence[int], values: Mapping[str, Array], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Make a model of the nodes at ``positions``; it takes what they read from outside, shaped as ``values`` are."""
    nodes = [model.graph.node[position] for position in positions]
    made = {name for node in nodes for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    read = dict.fromkeys(name for node in nodes for name in inputs_of(node) if name not in made)
    index = GraphIndex(model)
    graph = helper.make_graph(
        nodes,
        f"{model.graph.name}_part",
        [
            helper.make_tensor_value_info(name, _kind(values[name]), values[name].shape)
            for name in read
            if name not in constants
        ],
        [_value(name, index.declared(name)) for name in outputs],
        [constants[name] for name in read if name in constants],
    )
    return _like(model, graph)


def reads(model: onnx.ModelProto, positions: Sequence[int]) -> list[str]:
    """List the computed tensors that the nodes at ``positions`` read from outside."""
    nodes = [model.graph.node[position] for position in positions]
    made = {name for node in nodes for name in node.output} | {tensor.name for tensor in model.graph.initializer}
    return list(dict.fromkeys(name for node in nodes for name in inputs_of(node) if name not in made))


def declared(model: onnx.ModelProto, name: str) -> np.dtype[Any]:
    """Give the element type of a tensor; float32 where nothing says."""
    kind = GraphIndex(model).element_type(name)
    return helper.tensor_dtype_to_np_dtype(kind) if kind else np.dtype(np.float32)


def _kind(values: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(values.dtype))


def _like(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)


def _value(name: str, known: onnx.ValueInfoProto | None) -> onnx.ValueInfoProto:
    """Declare an output by element type and rank only: the sizes follow from the inputs."""
    if known is None or not known.type.tensor_type.elem_type:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    tensor = known.type.tensor_type
    shape = [f"{name}_{axis}" for axis in range(len(tensor.shape.dim))] if tensor.HasField("shape") else None
    return helper.make_tensor_value_info(name, tensor.elem_type, shape)
