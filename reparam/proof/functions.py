"""A model's own functions: which one a node calls, and the graph that the call stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto, helper

#: By domain, name and overload.
Functions = Mapping[tuple[str, str, str], FunctionProto]


def of(model: ModelProto) -> Functions:
    """The functions that the model brings."""
    return {(f.domain, f.name, f.overload): f for f in model.functions}


def called(functions: Functions, node: NodeProto) -> FunctionProto | None:
    """The function that a node calls, if it calls one: these go before operators of the same name."""
    return functions.get((node.domain, node.op_type, node.overload)) if functions else None


def body(function: FunctionProto, call: NodeProto) -> GraphProto:
    """What a call stands for: the function's nodes with the call's attributes, or else the function's defaults."""
    given = {a.name: a for a in (*function.attribute_proto, *call.attribute)}  # the later wins
    return helper.make_graph(
        list(_filled(function.node, given)),
        function.name,
        [helper.make_value_info(name, TypeProto()) for name in function.input],
        [helper.make_value_info(name, TypeProto()) for name in function.output],
    )


def _filled(nodes: Iterable[NodeProto], given: Mapping[str, AttributeProto]) -> Iterable[NodeProto]:
    """Copies of the nodes, references to attributes replaced by what they refer to, or left out where that is not."""
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.attribute[:]
        for attribute in node.attribute:
            if attribute.ref_attr_name and attribute.ref_attr_name not in given:
                continue
            kept = copy.attribute.add()
            kept.CopyFrom(given[attribute.ref_attr_name] if attribute.ref_attr_name else attribute)
            kept.name = attribute.name
            for graph in [*kept.graphs, *([kept.g] if kept.HasField("g") else [])]:
                inner = list(_filled(graph.node, given))
                del graph.node[:]
                graph.node.extend(inner)
        yield copy
