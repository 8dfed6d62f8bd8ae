"""What an ONNX node says of itself: whether it computes, where it came from, what its sub-graphs read."""

from __future__ import annotations

import ast

import onnx
from onnx import NodeProto

from attn_export.reparam.adapters.onnx.constants import Constants


def alive(graph: onnx.GraphProto, constants: Constants) -> frozenset[int]:
    """The nodes that compute something: no constants, nor what is read for its shape alone."""
    wanted = {o.name for o in graph.output}
    living: set[int] = set()
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if wanted.isdisjoint(node.output) or all(constants.known(name) for name in node.output if name):
            continue
        living.add(index)
        wanted |= set(node.input) | set(captured(node))
    return frozenset(living)


def scope_of(node: NodeProto) -> str:
    """The module path that a node came from, as far as its producer wrote it down."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError):
                break
            return str(scopes[-2]) if len(scopes) > 1 else ""
    if node.name.startswith("/"):
        return ".".join(node.name.strip("/").split("/")[:-1])
    return node.name


def captured(node: NodeProto) -> list[str]:
    """Names that the sub-graphs of a node read from outside; what they define themselves does no harm among them."""
    names: list[str] = []
    for graph in (g for a in node.attribute for g in (a.g, *a.graphs)):
        names += [o.name for o in graph.output]
        for inner in graph.node:
            names += [*inner.input, *captured(inner)]
    return names
