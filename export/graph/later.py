"""What a change of a graph changes: the nodes that are other ones, and all that read what those make.

    model    x ─► Conv ─► Relu ─► Gemm ─► y
    changed  x ─► Conv ─► Relu ─► Gemm′ ─► y        later: Gemm′, which needs the result of Relu

Whoever knows what the model makes has to evaluate no more than that.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from attn_export.reparam.adapters.onnx.nodes import inputs_of


def later(model: onnx.ModelProto, changed: onnx.ModelProto) -> list[int]:
    """Give the positions of the nodes of ``changed`` that may make something else than those of ``model`` do.

    Weights of ``changed`` that lie in a file are those of ``model``.
    """
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    other = {t.name for t in changed.graph.initializer if t.data_location != TensorProto.EXTERNAL}
    other = {t.name for t in changed.graph.initializer if t.name in other and t != held.get(t.name)}
    makers = {name: node for node in model.graph.node for name in node.output if name}
    found = []
    for position, node in enumerate(changed.graph.node):
        before = makers.get(next(filter(None, node.output), ""))
        if before != node or not other.isdisjoint(inputs_of(node)):
            found.append(position)
            other.update(filter(None, node.output))
    return found
