"""Take out of a graph what nothing reads any more."""

from __future__ import annotations

import onnx

from attn_export.reparam.adapters.onnx.nodes import captured


def without_unread_constants(model: onnx.ModelProto) -> None:
    """Take out, in place, the constants that no node and no output reads."""
    read = {name for node in model.graph.node for name in node.input} | {port.name for port in model.graph.output}
    read |= {name for node in model.graph.node for name in captured(node)}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    if len(kept) < len(model.graph.initializer):
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)
