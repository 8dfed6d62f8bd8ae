"""Audit a graph that was fused: the certificate answers for the sites, this for everything outside of them.

    un-fused export  ──── outside the sites: same operators, same attributes, same constants ────  fused
    fused            ──── every constant bit for bit, every attribute ───────────────────────────  what is deployed

A node belongs to a site when the fuser wrote it: its operator, its constants or its attributes are not those of the
node that made this tensor before. Its constants are computed, and are proven in float64 and not by their bits; from
there on they are constants like others, and must stay what they are.
"""

from __future__ import annotations

import onnx

from attn_export.export.audit.attributes import audit_attributes
from attn_export.export.audit.constants import Auditor, Known, audit_initializers
from attn_export.export.audit.defaults import held
from attn_export.export.audit.findings import Audit, AuditFinding
from attn_export.export.graph.index import GraphIndex


def audit_outside(fused: onnx.ModelProto, plain: onnx.ModelProto, wanted: Known, written: frozenset[str]) -> Audit:
    """Compare ``fused`` with the graph it was made from, but for the nodes that make the tensors ``written``.

    Args:
        fused: the graph after fusing.
        plain: the graph before.
        wanted: constants of the module that was exported.
        written: tensors that the fuser's own nodes make.
    """
    index = GraphIndex(fused)
    read = {name for node in index.nodes if node.output[0] in written for name in node.input}
    constants = read & index.tensors.keys()
    shared = {name for name in constants if any(node.output[0] not in written for node in index.readers[name])}
    rest = _without(fused, written, constants - shared)
    # A module tensor that went into a site is nowhere in the rest, and that is no mismatch: only a constant that
    # has a name it had before can be one.
    before = GraphIndex(plain)
    constant = audit_initializers(rest, wanted.also(plain))
    strange = [
        AuditFinding("initializer", name, "is read outside the fused sites, and no earlier stage has it")
        for name in GraphIndex(rest).floats()
        if name not in held(before)
    ]
    attribute = audit_attributes(rest, plain)
    return Audit(
        constant.checked + attribute.checked,
        (*constant.findings, *strange, *attribute.findings),
        (*constant.unmatched, *attribute.unmatched),
    )


def auditor_of_fused(wanted: Known, plain: onnx.ModelProto, fused: onnx.ModelProto) -> Auditor:
    """As ``audit.second_tier``, for what was made of a fused graph: what fusing left alone is audited once, here."""
    outside = audit_outside(fused, plain, wanted, written(fused, plain))
    return Auditor(wanted.also(plain).also(fused), fused, {"outside_fused_sites": outside})


def written(fused: onnx.ModelProto, plain: onnx.ModelProto) -> frozenset[str]:
    """First outputs of the nodes that read a constant which only the fused graph has: the fuser's own."""
    index, before = GraphIndex(fused), GraphIndex(plain)
    new = index.tensors.keys() - held(before)
    return frozenset(str(node.output[0]) for node in index.nodes if new.intersection(node.input))


def _without(model: onnx.ModelProto, outputs: frozenset[str], constants: set[str]) -> onnx.ModelProto:
    """Take some nodes and constants out of the graph; what the nodes made comes from outside, as large as it was."""
    index = GraphIndex(model)
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    nodes = [node for node in model.graph.node if node.output[0] not in outputs]
    tensors = [tensor for tensor in model.graph.initializer if tensor.name not in constants]
    del rest.graph.node[:], rest.graph.initializer[:]
    rest.graph.node.extend(nodes)
    rest.graph.initializer.extend(tensors)
    known = {value.name for value in (*rest.graph.value_info, *rest.graph.output)}
    rest.graph.value_info.extend(filter(None, map(index.declared, sorted(outputs - known))))
    return rest
