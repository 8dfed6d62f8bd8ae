"""Operators that put values in order or pick among them: behind those, rounding may swap what is nearly equal."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from attn_export.export.graph.index import GraphIndex
from attn_export.export.graph.selections import ORDERING


def ordering(model: onnx.ModelProto, outputs: Iterable[str], *, is_file: bool = False) -> str:
    """Say which node before some outputs puts values in order, and what to do; nothing where none does."""
    node = chooser(model, outputs)
    if node is None:
        return ""
    name = f"{node.op_type} {node.name or node.output[0]!r}"
    return (
        f"; {name} picks what comes next, and of two values that are equal up to rounding float32 may pick the other:"
        f" {way_out(node, is_file=is_file)}"
    )


def chooser(model: onnx.ModelProto, outputs: Iterable[str]) -> onnx.NodeProto | None:
    """Find the node that puts values in order nearest before some outputs."""
    index, seen, todo = GraphIndex(model), set[str](), list(outputs)
    while todo:
        node = index.maker.get(name := todo.pop(0))
        if name in seen or node is None:
            continue
        seen.add(name)
        if node.op_type in ORDERING:
            return node
        todo += node.input
    return None


def way_out(node: onnx.NodeProto, *, is_file: bool) -> str:
    """Say how to prove what a node reads: of a file inner tensors can be taken, code has to return them."""
    if is_file:
        read = node.input[: 2 if node.op_type == "NonMaxSuppression" else 1]
        return f"prove what enters it, --outputs {','.join(read)}"
    return "give what is before it as an output, and prove that: let forward return it, and choose in code of your own"
