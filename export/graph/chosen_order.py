"""Operators that put values in order or pick among them: behind those, rounding may swap what is nearly equal."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from attn_export.export.graph.index import GraphIndex
from attn_export.export.graph.selections import ORDERING


def ordering(model: onnx.ModelProto, outputs: Iterable[str]) -> str:
    """Say which node before some outputs puts values in order, and what to do; nothing where none does."""
    index, seen, todo = GraphIndex(model), set[str](), list(outputs)
    while todo:
        node = index.maker.get(name := todo.pop(0))
        if name in seen or node is None:
            continue
        seen.add(name)
        if node.op_type in ORDERING:
            return (
                f"; {node.op_type} {node.name or node.output[0]!r} picks what comes next, and of two values that are"
                " equal up to rounding float32 may pick the other: give what is before it as an output, and prove that"
            )
        todo += node.input
    return ""
