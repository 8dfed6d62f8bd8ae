"""Writes over the border of a tensor in an ONNX graph: chains of ScatterND with constant indices and values.

As for modules, the chain is run on a tensor of NaN: it is a padding if the untouched cells are a box inside and the
rest is one number for each channel. Indices that are constants hold for one size: such chains are static by nature.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper

from attn_export.reparam import ir
from attn_export.reparam.adapters.onnx.constants import Constants
from attn_export.reparam.adapters.onnx.shapes import Shapes
from attn_export.reparam.adapters.torch.border import ring

_STEPS = ("ScatterND", "Transpose", "Identity")


@dataclass(frozen=True)
class OnnxWrite:
    """A chain of writes: the tensor written over, the operator it amounts to, and the nodes before the last."""

    base: str
    op: ir.Border
    inner: frozenset[int]


def writes(graph: GraphProto, living: Collection[int], constants: Constants, shapes: Shapes) -> dict[int, OnnxWrite]:
    """Find the last node of every chain of writes that is a padding, by its place in the graph.

    ``living`` nodes count as readers; TorchScript reads shapes of what is written over, which are constants.
    """
    producer = {name: n for n, node in enumerate(graph.node) for name in node.output if name}
    readers: dict[str, list[int]] = {}
    for n in sorted(living):
        for name in graph.node[n].input:
            readers.setdefault(name, []).append(n)
    outputs = {o.name for o in graph.output}
    found: dict[int, OnnxWrite] = {}

    def alone(name: str) -> bool:
        return len(readers.get(name, [])) == 1 and name not in outputs

    for last in sorted(living):
        node = graph.node[last]
        if node.op_type not in _STEPS:
            continue
        after = [graph.node[n] for n in readers.get(node.output[0], [])]
        if any(r.op_type in _STEPS for r in after):
            continue
        chain, name = [last], node.input[0]
        while name in producer and graph.node[producer[name]].op_type in _STEPS and alone(name):
            chain.append(producer[name])
            name = graph.node[producer[name]].input[0]
        if not any(graph.node[n].op_type == "ScatterND" for n in chain):
            continue
        op = _run([graph.node[n] for n in reversed(chain)], shapes.sizes(name), shapes.shape(name), constants.get)
        if op is None:
            continue
        inner = set(chain[1:])
        before = producer.get(name)
        if before is not None and graph.node[before].op_type == "Pad" and alone(name):
            wider = _padded(graph.node[before], op, constants.get)
            if wider is not None:  # what the padding puts there is overwritten
                op, name = wider, graph.node[before].input[0]
                inner.add(before)
        found[last] = OnnxWrite(name, op, frozenset(inner))
    return found


Get = Callable[[str], NDArray[Any] | None]


def _run(chain: list[NodeProto], sizes: Any, shape: Any, get: Get) -> ir.Border | None:
    if sizes is None or len(sizes) < 3 or shape is None or not all(isinstance(n, int) for n in shape):
        return None
    value = np.full(sizes, np.nan)
    for node in chain:
        at = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Transpose":
            value = value.transpose(at.get("perm"))
        elif node.op_type == "ScatterND":
            index, new = get(node.input[1]), get(node.input[2])
            if index is None or new is None or at.get("reduction", b"none") != b"none":
                return None
            value = value.copy()
            try:
                value[tuple(np.moveaxis(index, -1, 0))] = new
            except (IndexError, ValueError):  # indices or values that do not fit: it cannot run, and stays as it is
                return None
    return ring(torch.from_numpy(np.ascontiguousarray(value))) if value.shape == tuple(sizes) else None


def _padded(node: NodeProto, op: ir.Border, get: Get) -> ir.Border | None:
    """The write with the padding before it, if all that it pads is overwritten."""
    amounts = get(node.input[1]) if len(node.input) > 1 else None
    rank = len(op.ring) + 2
    if amounts is None or len(amounts) != 2 * rank or (len(node.input) > 3 and node.input[3]):
        return None
    pairs = [(int(amounts[n]), int(amounts[n + rank])) for n in range(rank)]
    inside = all(
        0 <= p <= r for pair, ends in zip(pairs[2:], op.ring, strict=True) for p, r in zip(pair, ends, strict=True)
    )
    return replace(op, pads=tuple(pairs[2:])) if inside and not any(map(any, pairs[:2])) else None
