"""Operators that the standard has withdrawn at a model's opset: runtimes run them, the checker refuses them."""

from __future__ import annotations

import onnx
from onnx import ModelProto, helper

_DOMAIN = "withdrawn"
_STANDARD = ("", "ai.onnx")


def kinds(model: ModelProto) -> set[str]:
    """Find the withdrawn operators of a model."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 1)
    used = {node.op_type for node in model.graph.node if node.domain in _STANDARD}
    return {kind for kind in used if onnx.defs.has(kind) and _withdrawn(kind, opset)}


def set_aside(model: ModelProto) -> None:
    """Turn withdrawn operators into those of another domain, in place."""
    old = kinds(model)
    for node in model.graph.node if old else ():
        if node.op_type in old and node.domain in _STANDARD:
            node.domain = _DOMAIN
    if old:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))


def _withdrawn(kind: str, opset: int) -> bool:
    try:
        return bool(onnx.defs.get_schema(kind, opset).deprecated)
    except onnx.defs.SchemaError:  # newer than the opset: the checker says so
        return False
