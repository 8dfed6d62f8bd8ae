"""Compare the attributes of two stages of one model, node by node: epsilon, axis, pads, ceil_mode and the rest.

What is compared is what a node means (``meaning``), not how it is written. Constant inputs that act as attributes
(axes, pads, one-element numbers such as an epsilon that is added) count as attributes. An optional input that is gone
is a finding, unless it equals what the operator takes without it: a recurrent layer starts at zero either way. Nodes
that a stage rewrote have no partner (``partners``), and are only listed; so are those that differ because they took in
the node before them, or gave a part of their work to another,

    Unsqueeze 1 → Unsqueeze 2  ─►  Unsqueeze 1, 2        Pad → AveragePool  ─►  AveragePool with pads

which parity answers for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from attn_export.export.audit.findings import Audit, AuditFinding
from attn_export.export.audit.meaning import GIVEN, input_names, meaning
from attn_export.export.audit.partners import partners, rewritten
from attn_export.export.graph.index import GraphIndex

#: What the standard calls the input that is added.
_ADDENDS = ("B", "C", "bias")


def audit_attributes(model: onnx.ModelProto, reference: onnx.ModelProto) -> Audit:
    """Compare every node of ``model`` with its partner in ``reference``."""
    index, before = GraphIndex(model), GraphIndex(reference)
    pairs = partners(index, before)
    checked, findings, unpaired = 0, [], []
    for node in index.nodes:
        partner = pairs.get(node.output[0])
        where = f"{node.op_type} {node.name or node.output[0]}"
        if partner is None:
            unpaired.append(where)
            continue
        compared = list(_compared(index, before, node, partner))
        wrong = [(name, new, old) for name, new, old in compared if new != old]
        if wrong and rewritten(index, before, node, partner):
            unpaired.append(where)
            continue
        checked += len(compared)
        findings += [AuditFinding("attribute", where, f"expected {name} {old}, got {new}") for name, new, old in wrong]
    return Audit(checked, tuple(findings), tuple(unpaired))


def _compared(
    index: GraphIndex, before: GraphIndex, node: onnx.NodeProto, partner: onnx.NodeProto
) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and expected value of everything that both nodes can be compared by."""
    new, old, called = meaning(index, node), meaning(before, partner), input_names(before, partner)
    for name in sorted(new.keys() | old.keys()):
        value, wanted = new.get(name), old.get(name)
        if value is not None and wanted is not None and GIVEN in (value, wanted):
            continue  # a weight, or one of them is folded: the audit of constants answers for its value
        if name.startswith("input ") and None in (value, wanted):
            continue  # one of many that is computed in one graph and folded in the other
        if wanted is None and (value == GIVEN or name in _ADDENDS):
            continue  # it took in the node that added this: parity answers for that
        yield f"{name} ({called[name]})" if name in called else name, value, wanted
