"""What a lint rule is, and the look-ups in a graph that rules need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import TensorProto

#: How many operators a rule looks through: between the products of an attention there are a few.
FAR = 32


class LintGraph:
    """A model with the look-ups that rules need."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        #: Those that mean what the standard says: an operator of another domain may have any inputs.
        self.standard = [node for node in self.nodes if standard(node)]
        self.constants: Mapping[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        self.maker = {name: node for node in self.standard for name in node.output}

    @cached_property
    def _inferred(self) -> dict[str, onnx.ValueInfoProto]:
        try:
            graph = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        except Exception:  # a model that inference cannot follow still has its own declarations
            graph = self.model.graph
        return {item.name: item for item in (*graph.input, *graph.output, *graph.value_info)}

    @cached_property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next((item.version for item in self.model.opset_import if item.domain in ("", "ai.onnx")), 0)

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Nodes that read each tensor."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def kind(self, name: str) -> int:
        """Element type of a tensor, or 0."""
        if name in self.constants:
            return int(self.constants[name].data_type)
        info = self._inferred.get(name)
        return int(info.type.tensor_type.elem_type) if info is not None else 0

    def rank(self, name: str) -> int:
        """Rank of a tensor, or -1."""
        if name in self.constants:
            return len(self.constants[name].dims)
        info = self._inferred.get(name)
        known = info is not None and info.type.tensor_type.HasField("shape")
        return len(info.type.tensor_type.shape.dim) if info is not None and known else -1

    def last(self, name: str) -> int:
        """Size of a tensor's last dimension, or 0 where it is not known."""
        if name in self.constants:
            return int(self.constants[name].dims[-1]) if self.constants[name].dims else 0
        info = self._inferred.get(name)
        dims = info.type.tensor_type.shape.dim if info is not None else []
        return int(dims[-1].dim_value) if dims else 0

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is known when the graph is built."""
        return name in self._constant

    @cached_property
    def _constant(self) -> set[str]:
        known = {"", *self.constants}
        for node in self.nodes:  # sorted, so one pass reaches everything
            if known.issuperset(node.input):
                known.update(node.output)
        return known

    def before(self, name: str, through: Iterable[str]) -> onnx.NodeProto | None:
        """The node that makes a tensor, seen through some operators; None where those are more than ``FAR``."""
        node = self.maker.get(name)
        for _ in range(FAR):
            if node is None or node.op_type not in through or not node.input:
                return node
            node = self.maker.get(node.input[0])
        return None


def standard(node: onnx.NodeProto) -> bool:
    """Whether the operator is one of the standard's."""
    return node.domain in ("", "ai.onnx")


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """An attribute's value."""
    for item in node.attribute:
        if item.name == name:
            value = onnx.helper.get_attribute_value(item)
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return default


#: A node, why, and what to do about it.
Hit = tuple[onnx.NodeProto, str, str]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: what it is called in reports.
        target: for whom it speaks.
        level: ``refused``, ``cast``, ``split`` or ``not fused``.
        source: what it rests on.
        find: gives the nodes it is about.
    """

    name: str
    target: str
    level: str
    source: str
    find: Callable[[LintGraph], Iterator[Hit]]


Find = Callable[[LintGraph], Iterator[Hit]]


def recorder(rules: list[Rule]) -> Callable[[str, str, str], Callable[[Find], Find]]:
    """A decorator that puts a function on a list of rules, by target, level and source."""

    def rule(target: str, level: str, source: str) -> Callable[[Find], Find]:
        def put(find: Find) -> Find:
            rules.append(Rule(find.__name__.replace("_", "-"), target, level, source, find))
            return find

        return put

    return rule
