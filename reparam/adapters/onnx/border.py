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
from attn_export.reparam.adapters.border import fits_in, ring
from attn_export.reparam.adapters.onnx.constants import Constants
from attn_export.reparam.adapters.onnx.shapes import Shapes

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
    view = _View(graph, living)
    found: dict[int, OnnxWrite] = {}
    for last in sorted(living):
        if graph.node[last].op_type not in _STEPS or view.goes_on(last):
            continue
        chain, name = view.chain(last)
        if not any(graph.node[n].op_type == "ScatterND" for n in chain):
            continue
        op = _run([graph.node[n] for n in reversed(chain)], shapes.sizes(name), shapes.shape(name), constants.get)
        if op is None:
            continue
        inner, before = set(chain[1:]), view.producer.get(name)
        if before is not None and graph.node[before].op_type == "Pad" and view.alone(name):
            wider = _padded(graph.node[before], op, constants.get)
            if wider is not None:  # what the padding puts there is overwritten
                op, name = wider, graph.node[before].input[0]
                inner.add(before)
        found[last] = OnnxWrite(name, op, frozenset(inner))
    return found


class _View:
    """Who makes and who reads each value, by the place of the nodes in the graph."""

    def __init__(self, graph: GraphProto, living: Collection[int]) -> None:
        self._graph, self._outputs = graph, {o.name for o in graph.output}
        self.producer = {name: n for n, node in enumerate(graph.node) for name in node.output if name}
        self._readers: dict[str, list[int]] = {}
        for n in sorted(living):
            for name in graph.node[n].input:
                self._readers.setdefault(name, []).append(n)

    def alone(self, name: str) -> bool:
        """Whether one node reads a value and nobody else."""
        return len(self._readers.get(name, [])) == 1 and name not in self._outputs

    def goes_on(self, last: int) -> bool:
        """Whether a chain of writes goes on behind a node."""
        readers = self._readers.get(self._graph.node[last].output[0], [])
        return any(self._graph.node[n].op_type in _STEPS for n in readers)

    def chain(self, last: int) -> tuple[list[int], str]:
        """Follow a chain upwards: its nodes from the last on, and the value that it writes over."""
        chain, name = [last], self._graph.node[last].input[0]
        while name in self.producer and self._graph.node[self.producer[name]].op_type in _STEPS and self.alone(name):
            chain.append(self.producer[name])
            name = self._graph.node[self.producer[name]].input[0]
        return chain, name


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
    """Take in the padding before a write, if all that it pads is overwritten."""
    amounts = get(node.input[1]) if len(node.input) > 1 else None
    rank = len(op.ring) + 2
    if amounts is None or len(amounts) != 2 * rank or (len(node.input) > 3 and node.input[3]):
        return None
    pairs = [(int(amounts[n]), int(amounts[n + rank])) for n in range(rank)]
    inside = fits_in(pairs[2:], op.ring) and not any(map(any, pairs[:2]))
    return replace(op, pads=tuple(pairs[2:])) if inside else None
