"""What the graph of a catalogue entry must keep to so that every target has its operators and float16 its range.

No operator that some target lacks or is slow at; a layer norm is one node; queries or keys are scaled before their
product, never the product after it, which may have overflowed by then.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import numpy_helper
from torch import nn

from attn_export.errors import GateError
from attn_export.export.subject import Subject

REFUSED = frozenset({"CenterCropPad", "Col2Im", "DFT", "Einsum", "GatherND", "If", "Loop", "Scan", "Unique"})
#: And everything that begins so: ScatterND, ScatterElements, SequenceAt, …
REFUSED_STEMS = ("Scatter", "Sequence")
#: What may lie between a product of queries and keys and its softmax.
_BETWEEN = {"Add", "Where", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast", "Identity"}


def faults(model: onnx.ModelProto, module: nn.Module) -> list[str]:
    """Say in a sentence each what the graph breaks."""
    kinds = [node.op_type for node in model.graph.node]
    found = [
        f"{kind} is in the graph" for kind in sorted(set(kinds)) if kind in REFUSED or kind.startswith(REFUSED_STEMS)
    ]
    if any(isinstance(part, nn.LayerNorm) for part in module.modules()) and "LayerNormalization" not in kinds:
        found.append("the module has a LayerNorm, the graph no LayerNormalization")
    return found + [f"{name} scales a product of queries and keys" for name in _scaled_late(model)]


def gate(subject: Subject, file: Path) -> None:
    """Refuse a graph with faults.

    Raises:
        GateError: it has some; they are named.
    """
    if found := faults(onnx.load(file), subject.module):
        raise GateError(f"{subject.name} passed parity, but its graph is not portable: {'; '.join(found)}")


def _scaled_late(model: onnx.ModelProto) -> list[str]:
    """Nodes that multiply or divide the result of a MatMul by one number on its way into a Softmax."""
    maker = {name: node for node in model.graph.node for name in node.output}
    numbers = {tensor.name for tensor in model.graph.initializer if numpy_helper.to_array(tensor).size == 1}
    found = []
    for softmax in (node for node in model.graph.node if node.op_type == "Softmax"):
        left, seen = [softmax.input[0]], set[str]()
        while left:
            name = left.pop()
            node = maker.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if node.op_type in _BETWEEN:
                left += node.input
            elif node.op_type in ("Mul", "Div") and numbers & set(node.input):
                rest = [maker[i].op_type for i in node.input if i in maker]
                found += [node.name] if rest == ["MatMul"] else []
                left += node.input
    return found
