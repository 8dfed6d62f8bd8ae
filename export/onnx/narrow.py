"""Compute a float64 or bfloat16 graph in float32, between casts at its inputs and outputs, which stay as they are.

Runtimes for deployment have few kernels in float64, and on a processor next to none in bfloat16. The reference stays
the graph in float64, so what is lost is measured.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from attn_export.export.onnx.walk import attributes, graphs

#: Attributes that name the element type of what a node makes.
_TYPES = ("to", "dtype", "output_dtype")


#: What is computed in float32 instead where the runtime has no kernels for it.
KINDS: dict[int, str] = {TensorProto.DOUBLE: "float64", TensorProto.BFLOAT16: "bfloat16"}


def unsupported(model: ModelProto) -> int | None:
    """Find the element type, one of ``KINDS``, that a graph computes in and the runtime lacks kernels for."""
    kinds = [kind for kind in KINDS if _has(model, kind)]
    if not kinds:
        return None
    why = refused(model)
    if "bfloat16" in why and TensorProto.BFLOAT16 in kinds:
        return int(TensorProto.BFLOAT16)
    return int(kinds[0]) if "NOT_IMPLEMENTED" in why else None


def _has(model: ModelProto, kind: int) -> bool:
    values = (*model.graph.input, *model.graph.output)
    return any(tensor.data_type == kind for tensor in model.graph.initializer) or any(
        value.type.tensor_type.elem_type == kind for value in values
    )


def is_wide(model: ModelProto) -> bool:
    """Whether a graph takes, or has weights, in float64."""
    return any(tensor.data_type == TensorProto.DOUBLE for tensor in model.graph.initializer) or any(
        value.type.tensor_type.elem_type == TensorProto.DOUBLE for value in model.graph.input
    )


def refused(model: ModelProto) -> str:
    """Say why ONNX Runtime does not load a model; nothing where it does."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no public base
        return str(error)
    return ""


def narrowed(model: ModelProto, kind: int = TensorProto.DOUBLE) -> ModelProto:
    """Copy a model so that what it computes in ``kind`` is in float32; its inputs and outputs keep their types."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for graph in graphs(copy):
        for tensor in graph.initializer:
            _narrow(tensor, kind)
        for value in (*graph.value_info, *(() if graph is copy.graph else (*graph.input, *graph.output))):
            _retype(value, kind)
    for node, attribute in attributes(copy):
        if attribute.name in _TYPES and attribute.i == kind and node.domain in ("", "ai.onnx"):
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            _narrow(attribute.t, kind)
    _cast_ends(copy.graph, kind)
    return copy


def _narrow(tensor: TensorProto, kind: int) -> None:
    if tensor.data_type == kind:
        with np.errstate(over="ignore"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _retype(value: ValueInfoProto, kind: int) -> None:
    if value.type.tensor_type.elem_type == kind:
        value.type.tensor_type.elem_type = TensorProto.FLOAT


def _cast_ends(graph: GraphProto, kind: int) -> None:
    """Put casts behind inputs of a type and before outputs of it."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants and _is(value, kind)]
    renamed = {
        value.name: _free(f"{value.name}.float32", taken) for value in (*inputs, *graph.output) if _is(value, kind)
    }
    _rename(graph, renamed)
    first = [helper.make_node("Cast", [v.name], [renamed[v.name]], to=TensorProto.FLOAT) for v in inputs]
    last = [helper.make_node("Cast", [renamed[v.name]], [v.name], to=kind) for v in graph.output if _is(v, kind)]
    between = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*first, *between, *last])
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for value in graph.input:
        if value.name in constants:
            _retype(value, kind)


def _is(value: ValueInfoProto, kind: int) -> bool:
    return bool(value.type.tensor_type.elem_type == kind)


def _rename(graph: GraphProto, renamed: dict[str, str]) -> None:
    """Rename tensors in every node, those of sub-graphs included."""
    left = [graph]
    while left:
        body = left.pop()
        for node in body.node:
            _rename_in(node, renamed)
            for attribute in node.attribute:
                left += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
        if body is not graph:
            for value in body.output:
                value.name = renamed.get(value.name, value.name)


def _rename_in(node: NodeProto, renamed: dict[str, str]) -> None:
    for names in (node.input, node.output):
        for place, name in enumerate(names):
            names[place] = renamed.get(name, name)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
