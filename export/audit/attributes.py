"""Compare the attributes of two stages of one model, node by node: epsilon, axis, pads, ceil_mode and the rest.

Nodes are partners when they make a tensor of the same name and shape with the same operator; every attribute counts
with its default where it is not written, and so does the number of inputs. Constant inputs that act as attributes
(axes, pads, one-element numbers such as an epsilon that is added) count as well. Nodes that a stage rewrote have no
partner, and are only listed; so are those that differ because they took in the node before them,

    Unsqueeze 1 → Unsqueeze 2  ─►  Unsqueeze 1, 2        Pad → AveragePool  ─►  AveragePool with pads

which parity answers for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper

from attn_export.export.audit.findings import Audit, AuditFinding
from attn_export.export.graph.index import GraphIndex

#: Written out by some stages and left to inference by others.
_INFERRED = {"kernel_shape", "allowzero", "stash_type"}
#: Shapes may be written in several ways that mean the same.
_FREE = {"Reshape", "Expand", "Resize"}
#: To take these in changes no attribute.
_PASSING = {"Identity", "Dropout", "Cast"}


def audit_attributes(model: onnx.ModelProto, reference: onnx.ModelProto) -> Audit:
    """Compare every node of ``model`` with its partner in ``reference``."""
    index, before = GraphIndex(model), GraphIndex(reference)
    opset = next(entry.version for entry in reference.opset_import if entry.domain in ("", "ai.onnx"))
    checked, findings, unpaired = 0, [], []
    for node in index.nodes:
        partner = before.maker.get(node.output[0])
        same = partner is not None and index.shape(node.output[0]) == before.shape(partner.output[0])
        where = f"{node.op_type} {node.name or node.output[0]}"
        if partner is None or partner.op_type != node.op_type or not same:
            unpaired.append(where)
            continue
        compared = [*_attributes(index, node, partner, opset), *_constants(index, before, node, partner)]
        wrong = [(name, actual, expected) for name, actual, expected in compared if actual != expected]
        if wrong and _took_in(index, before, node, partner):
            unpaired.append(where)
            continue
        checked += len(compared)
        findings += [AuditFinding("attribute", where, f"expected {name} {old}, got {new}") for name, new, old in wrong]
    return Audit(checked, tuple(findings), tuple(unpaired))


def _took_in(index: GraphIndex, before: GraphIndex, node: onnx.NodeProto, partner: onnx.NodeProto) -> bool:
    """Whether the node reads what lies before its partner's input, and that input is made no more: it does both."""
    if not node.input or not partner.input:
        return False
    actual, tensor, absorbed = node.input[0], partner.input[0], list[str]()
    while tensor != actual:
        maker = before.maker.get(tensor)
        if maker is None or tensor in index.maker:
            return False
        absorbed.append(maker.op_type)
        tensor = next((name for name in maker.input if before.computed(name)), "")
    return not set(absorbed) <= _PASSING


def _attributes(
    index: GraphIndex, node: onnx.NodeProto, partner: onnx.NodeProto, opset: int
) -> Iterator[tuple[str, Any, Any]]:
    shape = index.shape(node.output[0])
    rank = None if shape is None else len(shape)
    actual, expected = (_all(n, opset, rank) for n in (node, partner))
    for name in sorted((actual.keys() | expected.keys()) - _INFERRED):
        new, old = actual.get(name), expected.get(name)
        yield name, _filled(name, new, old), _filled(name, old, new)


def _all(node: onnx.NodeProto, opset: int, rank: int | None) -> dict[str, Any]:
    """Attributes by name, defaults included, in a form that can be compared."""
    values: dict[str, Any] = {}
    if defs.has(node.op_type, node.domain):
        for name, item in defs.get_schema(node.op_type, opset, node.domain).attributes.items():
            if item.default_value.name:
                values[name] = helper.get_attribute_value(item.default_value)
    for attribute in node.attribute:
        if attribute.type in (attribute.GRAPH, attribute.GRAPHS, attribute.TENSOR):
            continue
        values[attribute.name] = helper.get_attribute_value(attribute)
    if rank and isinstance(values.get("axis"), int):
        values["axis"] %= rank
    return {name: list(v) if isinstance(v, (list, tuple)) else v for name, v in values.items()}


def _filled(name: str, value: Any, other: Any) -> Any:
    """Fill a list that is not written: with zeros (pads) or ones (strides, dilations)."""
    if value is None and isinstance(other, list) and name in ("pads", "strides", "dilations"):
        return [0 if name == "pads" else 1] * len(other)
    return value


def _constants(
    index: GraphIndex, before: GraphIndex, node: onnx.NodeProto, partner: onnx.NodeProto
) -> Iterator[tuple[str, Any, Any]]:
    if (actual := sum(map(bool, node.input))) < (expected := sum(map(bool, partner.input))):
        yield "number of inputs", actual, expected
    if node.op_type in _FREE:
        return
    for position, (name, other) in enumerate(zip(node.input, partner.input, strict=False)):
        if name not in index.tensors or other not in before.tensors:
            continue
        value, old = index.array(name), before.array(other)
        if old.size == 1 or old.dtype.kind in "iub":
            yield f"input {position} ({other})", _plain(value), _plain(old)


def _plain(array: np.ndarray[Any, np.dtype[Any]]) -> Any:
    return array.ravel().tolist() if array.size < 64 else array.tobytes()
