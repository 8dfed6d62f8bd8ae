"""Which tensors of a graph can only be scaled together, and which not at all.

    y = relu(x):    y and x by the same factor         y = W x + b:    y and x each by its own, W and b make up for it
    y = x + z:      all three by the same              y = sigmoid(x): neither

A group is what must be scaled alike. It is fixed where a tensor in it meets the outside, or an operator that is not
homogeneous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import onnx

from attn_export.export.graph.index import GraphIndex, attribute, is_standard
from attn_export.reparam.adapters.onnx.nodes import captured

#: f(c x) = c f(x) for positive c in the first input; others are parameters that are no part of that.
HOMOGENEOUS = frozenset(
    {"Abs", "AveragePool", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool"}
    | {"GlobalMaxPool", "Identity", "LeakyRelu", "LpPool", "MaxPool", "Neg", "PRelu", "ReduceL1", "ReduceL2"}
    | {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split"}
    | {"Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
#: Homogeneous in all that they take: those are of one scale, and constants among them are scaled as well.
JOINS = frozenset({"Add", "Clip", "Concat", "Max", "Mean", "Min", "Sub", "Sum", "Where"})
#: These read no values.
SIZES = frozenset({"Shape", "Size"})


@dataclass
class ScaleGroups:
    """Groups of tensors of one scale, as a forest: each tensor leads to another of its group, or to itself.

    Attributes:
        parent: by tensor.
        fixed: by the root of a group that cannot be scaled, why.
    """

    parent: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, str] = field(default_factory=dict)

    def root(self, name: str) -> str:
        """Give the tensor that stands for the group."""
        while (up := self.parent.setdefault(name, name)) != name:
            self.parent[name] = self.parent[up]
            name = up
        return name

    def tie(self, names: list[str]) -> None:
        """Put tensors into one group; it is fixed where one of theirs was."""
        first, *rest = map(self.root, names)
        for other in rest:
            if other != first:
                self.parent[other] = first
                if why := self.fixed.pop(other, ""):
                    self.fixed.setdefault(first, why)

    def fix(self, names: list[str], why: str) -> None:
        """Let the groups of tensors be as they are."""
        for name in names:
            self.fixed.setdefault(self.root(name), why)

    def why_fixed(self, name: str) -> str:
        """Say why the group of a tensor cannot be scaled, or nothing."""
        return self.fixed.get(self.root(name), "")

    def members(self) -> dict[str, list[str]]:
        """List the groups by their roots."""
        found: dict[str, list[str]] = {}
        for name in self.parent:
            found.setdefault(self.root(name), []).append(name)
        return found


def scale_groups(graph: GraphIndex, is_float: Callable[[str], bool]) -> ScaleGroups:
    """Find what can be scaled; ``is_float`` says of a computed tensor whether it is one of float32."""
    groups = ScaleGroups()
    ends = [port.name for port in (*graph.inputs, *graph.graph.output)]
    groups.fix([name for name in ends if is_float(name)], "it is an input or output of the model")
    products = []
    for node in graph.nodes:
        groups.fix([name for name in captured(node) if is_float(name)], f"a graph inside {_named(node)} reads it")
        names = [name for name in (*node.input, *node.output) if graph.computed(name) and is_float(name)]
        for name in names:
            groups.root(name)  # a group of its own until something ties it
        if node.op_type in SIZES or not names:
            continue
        if node.op_type == "Mul" and is_standard(node) and len(names) == 3:
            products.append(node)
        elif not _free(graph, node):
            if tied := _tied(graph, node, names):
                groups.tie(tied)
            else:
                groups.fix(names, f"{_named(node)} is not homogeneous")
    for node in products:  # of two computed tensors: where one is as it is, the other may be scaled with the product
        _product(groups, node)
    return groups


def _free(graph: GraphIndex, node: onnx.NodeProto) -> bool:
    """Whether a node has constant weights that can make up for the scales of what it takes and gives."""
    if not is_standard(node):
        return False
    constant = [name in graph.tensors for name in node.input]
    match node.op_type:
        case "Conv" | "ConvTranspose" | "Gemm":
            return not constant[0] and all(constant[1:])
        case "MatMul" | "Mul":
            return sum(constant) == 1
        case "BatchNormalization":
            return all(constant[1:]) and not attribute(node, "training_mode", 0) and len(node.output) == 1
    return False


def _tied(graph: GraphIndex, node: onnx.NodeProto, names: list[str]) -> list[str]:
    """List the tensors that a node needs to be of one scale; none where it lets nothing be scaled."""
    if not is_standard(node):
        return []
    if node.op_type in JOINS:  # bounds of a Clip were attributes once
        return names if node.op_type != "Clip" or graph.opset >= 11 else []
    first = [name for name in dict.fromkeys((node.input[0], *node.output)) if name in names]
    if node.op_type in HOMOGENEOUS and set(first) == set(names):
        return first
    if node.op_type == "Pad" and _pads_zeros(graph, node) and set(first) == set(names):
        return first
    return []


def _pads_zeros(graph: GraphIndex, node: onnx.NodeProto) -> bool:
    if attribute(node, "mode", "constant") != "constant" or len(node.input) < 3 or not node.input[2]:
        return not attribute(node, "value", 0.0)
    return node.input[2] in graph.tensors and not graph.array(node.input[2]).any()


def _product(groups: ScaleGroups, node: onnx.NodeProto) -> None:
    one, other = node.input
    for gate, value in ((one, other), (other, one)):
        if groups.why_fixed(gate) and groups.root(gate) != groups.root(value):
            return groups.tie([value, node.output[0]])
    groups.fix([one, other, node.output[0]], f"{_named(node)} multiplies two tensors")
    return None


def _named(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]!r}"


def constant_scales(graph: GraphIndex, node: onnx.NodeProto) -> Iterator[tuple[int, int, int]]:
    """Say how constants make up for scales: position, and how many times the output's and the input's they take."""
    match node.op_type:
        case "Conv" | "ConvTranspose" | "Gemm":
            yield 1, 1, -1
            if len(node.input) > 2 and node.input[2]:
                yield 2, 1, 0
        case "MatMul" | "Mul":
            yield from ((i, 1, -1) for i, name in enumerate(node.input) if name in graph.tensors)
        case "BatchNormalization":
            yield 1, 1, -1
            yield 2, 1, 0
            yield 3, 0, 1
        case op if op in JOINS:
            yield from ((i, 1, 0) for i, name in enumerate(node.input) if name in graph.tensors)
