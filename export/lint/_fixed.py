"""A graph as a converter of fixed sizes sees it: a number for every size, and what is computed from sizes folded."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_export.export.graph.index import STANDARD, GraphIndex, graph_inputs
from attn_export.export.graph.light import skeleton
from attn_export.types import Array

#: Stands for any size but the batch: a multiple of what windows and strides usually are.
USUAL = 56
#: How many elements of what is computed from sizes are folded at most: shapes, not weights.
LARGEST = 64
#: Rounds of inference and folding: each round reaches as far as sizes follow from what the one before has folded.
ROUNDS = 12


def fixed(model: onnx.ModelProto) -> GraphIndex:
    """Look into a copy of a graph with a batch of one and a number for every other size that is open."""
    copy = skeleton(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    batches = set()
    for port in graph_inputs(copy):
        dims = port.type.tensor_type.shape.dim
        if port.name not in constants and len(dims) > 1 and dims[0].dim_param:
            batches.add(dims[0].dim_param)
    for port in copy.graph.input:
        dims = port.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if not dim.HasField("dim_value"):
                nameless = axis == 0 and len(dims) > 1 and not dim.dim_param
                dim.dim_value = 1 if nameless or dim.dim_param in batches else USUAL
    for port in copy.graph.output:
        port.type.tensor_type.ClearField("shape")
    del copy.graph.value_info[:]  # of other sizes
    graph = GraphIndex(copy, propagate=True)
    for _ in range(ROUNDS):
        if not (values := _folded(graph)):
            break
        left = [node for node in copy.graph.node if not values.keys() >= set(filter(None, node.output))]
        del copy.graph.node[:]
        copy.graph.node.extend(left)
        copy.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
        graph = GraphIndex(copy, propagate=True)
    return graph


def _folded(graph: GraphIndex) -> dict[str, Array]:
    """Compute what depends on known sizes and small constants alone."""
    known = {name: graph.array(name) for name, tensor in graph.tensors.items() if math.prod(tensor.dims) <= LARGEST}
    opsets = {item.domain: item.version for item in graph.model.opset_import}
    found: dict[str, Array] = {}
    for node in graph.standard:
        if node.op_type == "Shape" and (value := _sizes(graph, node, opsets)) is not None:
            new = [value]
        elif node.op_type != "Shape" and node.input and all(not n or n in known for n in node.input):
            new = _evaluated(node, {name: known[name] for name in node.input if name}, opsets)
        else:
            continue
        if new and all(value.size <= LARGEST for value in new):
            given = dict(zip(node.output, new, strict=False))
            found |= given
            known |= given
    return found


def _sizes(graph: GraphIndex, node: onnx.NodeProto, opsets: dict[str, int]) -> Array | None:
    shape = graph.shape(node.input[0])
    sizes = [size for size in shape or () if isinstance(size, int)]
    if shape is None or len(sizes) < len(shape):
        return None
    zeros = np.broadcast_to(np.float32(0), sizes)
    new = _evaluated(node, {node.input[0]: zeros}, opsets)
    return new[0] if new else None


def _evaluated(node: onnx.NodeProto, feeds: dict[str, Array], opsets: dict[str, int]) -> list[Array]:
    """Evaluate one node; nothing where that is not possible."""
    if node.domain not in STANDARD or node.op_type.startswith("Random") or any(a.HasField("g") for a in node.attribute):
        return []
    try:
        return list(ReferenceEvaluator(node, opsets=opsets).run(None, feeds))
    except Exception:  # whatever an operator breaks on: then its value is not known
        return []
