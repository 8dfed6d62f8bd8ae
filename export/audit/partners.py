"""Which node of one graph is which of another, by the tensors they make; and what a stage may have done to one.

by name         both make a tensor of one name and shape, by the same operator
by place        the stage gave the tensor another name: the same operator on inputs that are partners themselves,
                and no other node of either graph is that
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from attn_export.export.graph.index import GraphIndex, attribute

#: To take these in, or to put them in between, changes no attribute.
_PASSING = {"Identity", "Dropout", "Cast"}


def partners(index: GraphIndex, before: GraphIndex) -> dict[str, onnx.NodeProto]:
    """Find for the nodes of ``index``, by their first output, the nodes of ``before`` that they were."""
    found, same = dict[str, onnx.NodeProto](), dict[str, str]()
    by_place = _by_place(before)
    for node in index.nodes:
        partner = before.maker.get(node.output[0])
        if partner is None and (key := _key(index, node, same)) is not None:
            partner = by_place.get(key)
        if partner is None or not _alike(index, before, node, partner):
            continue
        found[node.output[0]] = partner
        same |= {name: old for name, old in zip(node.output, partner.output, strict=False) if name and old}
    return found


def _alike(index: GraphIndex, before: GraphIndex, node: onnx.NodeProto, partner: onnx.NodeProto) -> bool:
    # What varies is named anew by every inference of shapes, so that its name says nothing.
    shapes = (
        None if shape is None else [None if isinstance(size, str) else size for size in shape]
        for shape in (index.shape(node.output[0]), before.shape(partner.output[0]))
    )
    ours, its = shapes
    return (node.op_type, node.domain) == (partner.op_type, partner.domain) and ours == its


_Key = tuple[str, tuple[str, ...]]


def _key(graph: GraphIndex, node: onnx.NodeProto, same: Mapping[str, str]) -> _Key | None:
    """Operator and computed inputs, by the names they had; None where there is no such input."""
    names = tuple(same.get(name, name) for name in node.input if graph.computed(name))
    return (node.op_type, names) if names else None


def _by_place(before: GraphIndex) -> dict[_Key, onnx.NodeProto]:
    """Find the nodes that are the only ones with their operator and inputs."""
    found, twice = dict[_Key, onnx.NodeProto](), set[_Key]()
    for node in before.nodes:
        if (key := _key(before, node, {})) is not None:
            twice |= {key} & found.keys()
            found[key] = node
    return {key: node for key, node in found.items() if key not in twice}


def rewritten(index: GraphIndex, before: GraphIndex, node: onnx.NodeProto, partner: onnx.NodeProto) -> bool:
    """Whether the node does what its partner and others did, or only a part of that: its attributes may differ.

    Unsqueeze 1 → Unsqueeze 2  ─►  Unsqueeze 1, 2       ReduceMean 2, 3  ─►  ReduceMean 2 → ReduceMean 3
    Concat a, Concat(b, c)  ─►  Concat a, b, c          Transpose → Transpose  ─►  Transpose
    """
    ways = ((index, before, node, partner), (before, index, partner, node))
    return _turned_at_once(before, node, partner) or any(_took_in(*way) or _took_in_one_of_many(*way) for way in ways)


def _turned_at_once(before: GraphIndex, node: onnx.NodeProto, partner: onnx.NodeProto) -> bool:
    """Whether the node turns what its partner and the transpositions before that turn, which may be there still."""
    if node.op_type != "Transpose":
        return False
    order, tensor = list(attribute(partner, "perm", [])), partner.input[0]
    while order and tensor != node.input[0]:
        maker = before.maker.get(tensor)
        inner = list(attribute(maker, "perm", [])) if maker is not None and maker.op_type == "Transpose" else []
        if maker is None or len(inner) != len(order):
            return False
        order, tensor = [inner[axis] for axis in order], maker.input[0]
    return bool(order) and order == list(attribute(node, "perm", []))


def _took_in_one_of_many(index: GraphIndex, before: GraphIndex, node: onnx.NodeProto, partner: onnx.NodeProto) -> bool:
    """Whether the node reads what its partner's input was made of, by the same operator, and that is made no more."""
    gone = [before.maker[name] for name in partner.input if name in before.maker and name not in index.maker]
    return any(
        maker.op_type == node.op_type and set(_unfolded(index, before, maker)) <= set(node.input) for maker in gone
    )


def _unfolded(index: GraphIndex, before: GraphIndex, node: onnx.NodeProto) -> list[str]:
    """List the inputs of a node that is gone, with those of its operator that it read and that are gone as well."""
    found, left = list[str](), list(reversed(node.input))
    while left:
        maker = before.maker.get(name := left.pop())
        if maker is None or name in index.maker or maker.op_type != node.op_type:
            found.append(name)
        else:
            left += reversed(maker.input)
    return found


def _took_in(index: GraphIndex, before: GraphIndex, node: onnx.NodeProto, partner: onnx.NodeProto) -> bool:
    """Whether the node reads what lies before its partner's input, and that input is made no more: it does both."""
    actual, tensor, absorbed = _first(index, node), _first(before, partner), list[str]()
    while actual and tensor and tensor != actual:
        maker = before.maker.get(tensor)
        if maker is None or tensor in index.maker:
            return False
        absorbed.append(maker.op_type)
        tensor = _first(before, maker)
    return bool(tensor) and not set(absorbed) <= _PASSING


def _first(graph: GraphIndex, node: onnx.NodeProto) -> str:
    """Name the first input that is computed."""
    return next((name for name in node.input if graph.computed(name)), "")
