"""What an ONNX node says of itself: its sub-graphs, what it reads, and where it came from."""

from __future__ import annotations

import ast

from onnx import GraphProto, NodeProto


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """List the graphs that a node holds."""
    return [g for a in node.attribute for g in (*a.graphs, *([a.g] if a.HasField("g") else []))]


def inputs_of(node: NodeProto) -> list[str]:
    """List what a node reads, sub-graphs included; names without values are left out."""
    return [*(name for name in node.input if name), *captured(node)]


def captured(node: NodeProto) -> list[str]:
    """List what the sub-graphs of a node read from outside."""
    names: list[str] = []
    for graph in subgraphs(node):
        inside = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        inside |= {t.values.name for t in graph.sparse_initializer}
        inside |= {name for inner in graph.node for name in inner.output}
        names += [name for inner in graph.node for name in inputs_of(inner) if name not in inside]
        names += [v.name for v in graph.output if v.name not in inside]
    return names


def scope_of(node: NodeProto) -> str:
    """Return the module path that a node came from, as far as its producer wrote it down."""
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
