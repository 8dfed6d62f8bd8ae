"""A model's own functions: which one a node calls, and the graph that the call stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto, defs, helper

#: By domain, name and overload.
Functions = Mapping[tuple[str, str, str], FunctionProto]


def of(model: ModelProto) -> Functions:
    """Index the functions that the model brings."""
    return {(f.domain, f.name, f.overload): f for f in model.functions}


def called(functions: Functions, node: NodeProto) -> FunctionProto | None:
    """Find the function that a node calls, if it calls one: these go before operators of the same name."""
    return functions.get((node.domain, node.op_type, node.overload)) if functions else None


#: Operators that are evaluated as the standard defines them by others: the reference rounds inside of these to float32.
DEFINED = frozenset({"AffineGrid", "CausalConvWithState", "LinearAttention"})


def defined(node: NodeProto, opset: int, shapes: Sequence[Sequence[int] | None]) -> FunctionProto:
    """Take the standard's definition of an operator, for inputs of these shapes (None where one is absent)."""
    schema: Any = defs.get_schema(node.op_type, opset, "")  # whose stubs lack some
    function = FunctionProto()
    if schema.has_function:
        function.CopyFrom(schema.function_body)
        return function
    single = onnx.TensorProto.FLOAT
    kinds = [TypeProto() if shape is None else helper.make_tensor_type_proto(single, shape) for shape in shapes]
    made = schema.get_context_dependent_function(node.SerializeToString(), [k.SerializeToString() for k in kinds])
    function.ParseFromString(made)
    return function


def body(function: FunctionProto, call: NodeProto) -> GraphProto:
    """Build what a call stands for: the function's nodes with the call's attributes, else the function's defaults."""
    given = {a.name: a for a in [*_defaults(call, function), *function.attribute_proto, *call.attribute]}
    return helper.make_graph(
        list(_filled(function.node, given)),
        function.name,
        [helper.make_value_info(name, TypeProto()) for name in function.input],
        [helper.make_value_info(name, TypeProto()) for name in function.output],
    )


def _defaults(call: NodeProto, function: FunctionProto) -> Iterable[AttributeProto]:
    """Look up what the standard gives for attributes, where the function is the definition of one of its operators."""
    if call.op_type not in DEFINED or function.domain:
        return []
    schema = defs.get_schema(call.op_type, function.opset_import[0].version, "")
    return [a.default_value for a in schema.attributes.values() if a.default_value.type]


def _filled(nodes: Iterable[NodeProto], given: Mapping[str, AttributeProto]) -> Iterable[NodeProto]:
    """Copy the nodes, references to attributes replaced by what they refer to, or left out where that is not."""
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.attribute[:]
        for attribute in node.attribute:
            if attribute.ref_attr_name and attribute.ref_attr_name not in given:
                continue
            copied = copy.attribute.add()
            copied.CopyFrom(given[attribute.ref_attr_name] if attribute.ref_attr_name else attribute)
            copied.name = attribute.name
            for graph in [*copied.graphs, *([copied.g] if copied.HasField("g") else [])]:
                inner = list(_filled(graph.node, given))
                del graph.node[:]
                graph.node.extend(inner)
        yield copy
