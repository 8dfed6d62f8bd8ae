"""Rewrite a float32 graph to float16, in the graph itself: a strongly typed runtime does what the types say.

    input (float32) → Cast → float16 nodes … → Cast → float32 nodes that must stay → Cast → … → Cast → output (float32)

Inputs and outputs keep their types, so a bundle's contract and cases hold. What stays in float32 is decided by a
float32 run that looks at every tensor, and by the operators' schemas; each node that stays is reported with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from attn_export.errors import ExportError
from attn_export.export.precision.float16_policy import (
    LARGEST,
    MARGIN,
    MASK,
    Extent,
    decide,
    floats,
    is_float,
    observe,
    takes_float16,
)

#: A graph with one of these is quantised.
QUANTISED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear"}


@dataclass(frozen=True)
class KeptNode:
    """A node that stays in float32, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Float16Report:
    """What the rewrite did.

    Attributes:
        halved: nodes that compute in float16.
        kept: nodes that stay in float32.
        casts: casts that were put in between.
        clamped: constants whose mask values became the least float16.
        largest: the largest magnitude seen in any tensor that became float16.
    """

    halved: int
    kept: tuple[KeptNode, ...]
    casts: int
    clamped: tuple[str, ...]
    largest: float

    def summary(self) -> str:
        """Say it in one line."""
        text = f"{self.halved} nodes in float16, {len(self.kept)} stay in float32, {self.casts} casts"
        return text + (f", {len(self.clamped)} masks clamped" if self.clamped else "")

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain data."""
        return asdict(self)


def to_float16(
    model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]], *, margin: float = MARGIN
) -> tuple[onnx.ModelProto, Float16Report]:
    """Return the model in float16 and what stays in float32; the one given is not changed.

    Raises:
        ExportError: the model is quantised, does not run, or the result is no valid ONNX.
    """
    refuse_quantised(model)
    return lowered(model, observe(model, feeds), margin=margin)


def refuse_quantised(model: onnx.ModelProto) -> None:
    """Take float32 models only.

    Raises:
        ExportError: it is quantised.
    """
    if found := {node.op_type for node in model.graph.node} & QUANTISED:
        raise ExportError(f"expected a float32 model to rewrite in float16, got one with {', '.join(sorted(found))}")


def lowered(
    model: onnx.ModelProto, seen: Mapping[str, Extent], *, margin: float = MARGIN
) -> tuple[onnx.ModelProto, Float16Report]:
    """Return the model as ``to_float16`` does, given what a float32 run showed of its tensors.

    Raises:
        ExportError: the result is no valid ONNX.
    """
    rewriting = _Rewriting(model, seen, decide(model, seen, LARGEST * margin))
    result = rewriting.run()
    try:
        onnx.checker.check_model(result, full_check=result.ByteSize() < (1 << 30))
    except Exception as error:  # the checker's exceptions share no base class
        raise ExportError(f"the float16 rewrite is not valid ONNX: {str(error)[:300]}") from error
    return result, rewriting.report()


@dataclass
class _Rewriting:
    """One rewrite in progress: every tensor has one element type, and is cast once to the other where wanted."""

    model: onnx.ModelProto
    seen: Mapping[str, Extent]
    fp32: Mapping[int, str]
    fp16: set[str] = field(default_factory=set)  # tensors that are float16 now
    cast: dict[tuple[str, int], str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, TensorProto] = field(default_factory=dict)
    clamped: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    halved: int = 0

    def __post_init__(self) -> None:
        self.versions = {item.domain: item.version for item in self.model.opset_import}
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.taken = {name for node in self.model.graph.node for name in (*node.input, *node.output)}

    def run(self) -> onnx.ModelProto:
        """Build the new model."""
        outputs = {port.name for port in self.model.graph.output}
        for index, node in enumerate(self.model.graph.node):
            self._node(index, node, outputs)
        for port in self.model.graph.output:
            if port.name in self.fp16:
                self._append_cast(self.renamed[port.name], port.name, TensorProto.FLOAT)
        result = onnx.ModelProto()
        result.CopyFrom(self.model)
        del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
        result.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input} | outputs
        result.graph.initializer.extend(t for t in {**self.constants, **self.tensors}.values() if t.name in used)
        return result

    def report(self) -> Float16Report:
        """Say what was done."""
        nodes = self.model.graph.node
        kept = tuple(KeptNode(nodes[index].name, nodes[index].op_type, reason) for index, reason in self.fp32.items())
        largest = max((self.seen[name].largest for name in self.fp16 if name in self.seen), default=0.0)
        casts = sum(name.startswith("to_float") for name in (node.name for node in self.nodes))
        return Float16Report(self.halved, kept, casts, tuple(dict.fromkeys(self.clamped)), largest)

    def _node(self, index: int, node: onnx.NodeProto, outputs: set[str]) -> None:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        lower = index not in self.fp32 and bool(floats(node, self.seen))
        for i, name in enumerate(node.input):
            if name in self.seen and self.seen[name].dtype == np.float32:
                fp16 = lower and takes_float16(node, self.versions, i)
                new.input[i] = self._as(name, TensorProto.FLOAT16 if fp16 else TensorProto.FLOAT)
        if lower:
            self.halved += 1
            self._attributes(new)
            for i, name in enumerate(node.output):
                if name in self.seen and self.seen[name].dtype == np.float32:
                    self.fp16.add(name)
                    if name in outputs:
                        new.output[i] = self.renamed[name] = self._fresh(f"{name}_float16")
        self.nodes.append(new)

    def _as(self, name: str, kind: int) -> str:
        """Name the tensor in an element type; casts and converted constants are made once and shared."""
        if (TensorProto.FLOAT16 if name in self.fp16 else TensorProto.FLOAT) == kind:
            return self.renamed.get(name, name)
        if (name, kind) not in self.cast:
            fresh = self._fresh(f"{name}_{'float16' if kind == TensorProto.FLOAT16 else 'float32'}")
            if name in self.constants:
                self.tensors[fresh] = self._to_fp16(self.constants[name], fresh)
            else:
                self._append_cast(self.renamed.get(name, name), fresh, kind)
            self.cast[name, kind] = fresh
        return self.cast[name, kind]

    def _append_cast(self, source: str, target: str, kind: int) -> None:
        word = "to_float16" if kind == TensorProto.FLOAT16 else "to_float32"
        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"{word}_{len(self.nodes)}", to=kind))

    def _to_fp16(self, tensor: TensorProto, name: str) -> TensorProto:
        values = numpy_helper.to_array(tensor)
        if bool((np.abs(values) >= MASK).any()):
            self.clamped.append(tensor.name)
        # Minus infinity as a mask makes NaN of a row that is masked whole; the least finite value does not.
        return numpy_helper.from_array(np.clip(values, -LARGEST, LARGEST).astype(np.float16), name)

    def _attributes(self, node: onnx.NodeProto) -> None:
        """Element types that a node carries itself."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif attribute.type == onnx.AttributeProto.TENSOR and is_float(attribute.t):
                attribute.t.CopyFrom(self._to_fp16(attribute.t, attribute.t.name))
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                values = np.asarray(attribute.f if attribute.name == "value_float" else attribute.floats, np.float32)
                tensor = self._to_fp16(numpy_helper.from_array(values, "value"), "value")
                attribute.CopyFrom(helper.make_attribute("value", tensor))

    def _fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name
