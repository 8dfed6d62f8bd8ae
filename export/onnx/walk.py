"""Walks over everything an ONNX model holds, sub-graphs and functions included, without recursion."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto


def graphs(model: ModelProto) -> Iterator[GraphProto]:
    """Yield the graph, the sub-graphs of its nodes and of functions' nodes, outer ones first."""
    yield model.graph
    left = [*_inner(model.graph), *(graph for function in model.functions for graph in _inner(function))]
    while left:
        graph = left.pop()
        yield graph
        left += _inner(graph)


def bodies(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    """Yield everything that has nodes: graphs and functions."""
    yield from graphs(model)
    yield from model.functions


def attributes(model: ModelProto) -> Iterator[tuple[NodeProto, AttributeProto]]:
    """Yield every attribute with its node."""
    for body in bodies(model):
        for node in body.node:
            for attribute in node.attribute:
                yield node, attribute


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every constant: initializers, sparse ones, and those of attributes."""
    for graph in graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for _, attribute in attributes(model):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparses = [
            *attribute.sparse_tensors,
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        ]
        for sparse in sparses:
            yield from (sparse.values, sparse.indices)


def _inner(body: GraphProto | FunctionProto) -> list[GraphProto]:
    found: list[GraphProto] = []
    for node in body.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found.append(attribute.g)
            found += attribute.graphs
    return found
