"""Give tensors of a graph other names, and take outputs away."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx

from attn_export.reparam.adapters.onnx.nodes import inputs_of, subgraphs

#: Behind the name of a tensor that had the name which another one is given.
TAKEN = ".other"


def renamed(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """Copy a model so that tensors have new names, all at once; a tensor that has one of these already gives it up."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    used = _names(copy.graph)
    new = dict(names)
    for name in set(names.values()) & (used - names.keys()):
        other = name + TAKEN
        while other in used or other in names.values():
            other += TAKEN
        new[name] = other
    _rename(copy.graph, new)
    return copy


def narrowed(model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """Copy a model so that it has these of its outputs, without the nodes that nothing reads any more."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [value for value in copy.graph.output if value.name in outputs]
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    live, needed = {value.name for value in kept}, list[onnx.NodeProto]()
    for node in reversed(model.graph.node):
        if live & set(node.output):
            needed.append(node)
            live |= set(inputs_of(node))
    del copy.graph.node[:]
    copy.graph.node.extend(needed[::-1])
    return copy


def _names(graph: onnx.GraphProto) -> set[str]:
    found = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        found.update(node.input, node.output)
        for inner in subgraphs(node):
            found |= _names(inner)
    return found


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for tensors in (node.input, node.output):
            for place, name in enumerate(tensors):
                tensors[place] = names.get(name, name)
        for inner in subgraphs(node):
            _rename(inner, names)
