"""What float16 makes of a graph, run here: every tensor is rounded to float16, sums are added up in float32.

    node → Cast(float16) → Cast(float32) → next node

A reduction that takes a mean is split first: its sum is a tensor of its own on what computes in float16. A node that is
kept in float32 takes and gives what is not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from attn_export.export.graph.index import attribute
from attn_export.export.precision.float16_policy import LARGEST, Extent, run

#: Means, with the reductions that give their sums, and the opset since which those take their axes as an operand.
_MEANS, _SUM_TAKES_AXES = {"ReduceMean": "ReduceSum"}, 13


@dataclass(frozen=True)
class Confirmation:
    """Float16 throughout, and with some nodes in float32, against float32: the worst of all inputs and outputs.

    Attributes:
        throughout_db: signal-to-noise ratio where every node computes in float16; None where it is no number.
        kept_db: the same where the named nodes stay in float32.
        inputs: how many were run.
        kept: how many nodes were named.
    """

    throughout_db: float | None
    kept_db: float | None
    inputs: int
    kept: int

    def summary(self) -> str:
        """Say it in a sentence.

        >>> Confirmation(None, 61.24, 8, 3).summary()
        'rounded to float16 throughout: NaN or infinite; with these in float32: 61.2 dB'
        """
        told = [f"{one:.1f} dB" if one is not None else "NaN or infinite" for one in (self.throughout_db, self.kept_db)]
        behind = f"; with these in float32: {told[1]}" if self.kept else ""
        return f"rounded to float16 throughout: {told[0]}{behind}"


def confirm(
    model: onnx.ModelProto,
    seen: Mapping[str, Extent],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    kept: Iterable[int],
) -> Confirmation:
    """Run a graph in float32, rounded throughout, and rounded but for the nodes at the positions ``kept``.

    Raises:
        ExportError: it does not run.
    """
    keep = tuple(kept)
    exact = list(run(model, feeds))
    throughout, forced = (
        min((_ratio(a, b) for a, b in zip(exact, run(rounded(model, seen, some), feeds), strict=True)), default=0.0)
        for some in ((), keep)
    )
    return Confirmation(_finite(throughout), _finite(forced), len(feeds), len(keep))


@dataclass(frozen=True)
class Culprit:
    """A node whose rounding alone costs the outputs what is asked of them.

    Attributes:
        index: its position.
        before_db: signal-to-noise ratio where everything before it is rounded.
        after_db: the same where it is, too; None where that is no number.
    """

    index: int
    before_db: float | None
    after_db: float | None


def culprits(
    model: onnx.ModelProto,
    seen: Mapping[str, Extent],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    kept: Iterable[int],
    least: float,
    most: int = 4,
) -> list[Culprit]:
    """Find the nodes whose rounding brings the outputs below ``least`` dB although no range says so.

    It is halved where rounding must end for the outputs to stay right; a node that is found is kept in float32, and the
    next is looked for, up to ``most``.

    Raises:
        ExportError: it does not run.
    """
    keep, found, count = set(kept), list[Culprit](), len(model.graph.node)
    exact = list(run(model, feeds))

    def ratio(upto: int) -> float:
        """Round what lies before a position."""
        some = keep | set(range(upto, count))
        return min(_ratio(a, b) for a, b in zip(exact, run(rounded(model, seen, some), feeds), strict=True))

    while len(found) < most and ratio(count) < least:
        right, wrong = 0, count
        before, after = ratio(0), ratio(count)
        if before < least:  # the inputs themselves are lost
            return found
        while wrong - right > 1:
            middle = (right + wrong) // 2
            if (value := ratio(middle)) < least:
                wrong, after = middle, value
            else:
                right, before = middle, value
        found.append(Culprit(right, _finite(before), _finite(after)))
        keep.add(right)
    return found


def _finite(ratio: float) -> float | None:
    return ratio if math.isfinite(ratio) else None


def _ratio(exact: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> float:
    """Give the least signal-to-noise ratio of all outputs in dB; minus infinity where one is not finite."""
    worst = 200.0
    for name, value in exact.items():
        if value.dtype.kind != "f":
            continue
        if not np.isfinite(got[name]).all():
            return -math.inf
        noise = float(np.linalg.norm((got[name].astype(np.float64) - value).ravel()))
        signal = float(np.linalg.norm(value.astype(np.float64).ravel()))
        if noise and signal:
            worst = min(worst, 20 * math.log10(signal / noise))
        elif noise:
            worst = min(worst, 0.0)
    return worst


def rounded(model: onnx.ModelProto, seen: Mapping[str, Extent], kept: Iterable[int] = ()) -> onnx.ModelProto:
    """Write rounding behind every node but those that are kept; the model given is not changed."""
    made, keep = onnx.ModelProto(), set(kept)
    made.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halves: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []

    def low(name: str) -> str:
        """Name the rounded copy of a tensor that a node does not give: a constant or an input."""
        if name not in halves:
            halves[name] = f"{name}_in_float16"
            if name in constants:
                clipped = np.clip(numpy_helper.to_array(constants[name]), -LARGEST, LARGEST)  # masks are clamped
                value = clipped.astype(np.float16).astype(np.float32)
                made.graph.initializer.append(numpy_helper.from_array(value, halves[name]))
            else:
                nodes.extend(_rounding(name, halves[name]))
        return halves[name]

    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    inputs = {port.name for port in model.graph.input if port.type.tensor_type.elem_type == TensorProto.FLOAT}
    for index, node in enumerate(model.graph.node):
        parts = [node] if index in keep else list(_split(node, seen, opset))
        for part in parts:
            copy = onnx.NodeProto()
            copy.CopyFrom(part)
            if index not in keep:
                for place, name in enumerate(copy.input):
                    if name in constants or name in inputs:
                        copy.input[place] = low(name)
            nodes.append(copy)
            if index in keep:
                continue
            for place, name in enumerate(copy.output):
                if (name in seen and seen[name].dtype == np.float32) or name.endswith(_SUM):
                    copy.output[place] = f"{name}_exact"
                    nodes.extend(_rounding(copy.output[place], name))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    del made.graph.value_info[:]
    return made


_SUM = "_as_a_sum"


def _split(node: onnx.NodeProto, seen: Mapping[str, Extent], opset: int) -> Iterator[onnx.NodeProto]:
    """Give a mean as its sum, which overflows by itself, and what is left to be done to it."""
    if node.op_type not in _MEANS or seen.get(node.output[0], Extent(np.dtype(np.int64))).dtype != np.float32:
        yield node
        return
    total = onnx.NodeProto()
    total.CopyFrom(node)
    total.op_type, total.name = _MEANS[node.op_type], f"{node.name}{_SUM}"
    total.output[0] = f"{node.output[0]}{_SUM}"
    axes = attribute(total, "axes")
    if axes is not None and opset >= _SUM_TAKES_AXES:
        others = [item for item in total.attribute if item.name != "axes"]
        del total.attribute[:]
        total.attribute.extend(others)
        total.input.append(f"{node.output[0]}_axes")
        told = numpy_helper.from_array(np.array(axes, np.int64))
        yield helper.make_node("Constant", [], [total.input[1]], value=told)
    mean = onnx.NodeProto()
    mean.CopyFrom(node)
    mean.output[0] = f"{node.output[0]}_mean"
    # The rounded sum is either a number, and times 0 nothing, or infinite, and then the mean is lost.
    zero = helper.make_node("Mul", [total.output[0], f"{node.output[0]}_zero"], [f"{node.output[0]}_lost"])
    constant = helper.make_node(
        "Constant", [], [f"{node.output[0]}_zero"], value=numpy_helper.from_array(np.array(0, np.float32))
    )
    yield constant
    yield total
    yield mean
    yield zero
    yield helper.make_node("Add", [mean.output[0], zero.output[0]], [node.output[0]])


def _rounding(source: str, target: str) -> list[onnx.NodeProto]:
    half = f"{target}_half"
    return [
        helper.make_node("Cast", [source], [half], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [target], to=TensorProto.FLOAT),
    ]
