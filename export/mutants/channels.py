"""Faults of one class, one channel or one place of an output, whose norm hardly shows them.

Each function yields kind, output, the tensor it changes, and the change.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from attn_export.export.graph.index import GraphIndex, set_tensor
from attn_export.export.mutants.outputs import class_axes, detach, floating, middle, scaled
from attn_export.export.mutants.weights import SHARE, Change, Fault


def zeroed(index: GraphIndex) -> Iterator[Fault]:
    """Give zero for one class: the middle one along the second or the last axis."""
    for name, kind, shape in floating(index):
        for axis in class_axes(shape or ()):
            if shape is not None and shape[axis] not in (0, 1):
                change = _scaler(name, kind, len(shape), {axis: middle(shape[axis])}, 0.0)
                yield "a class zeroed", f"{name}, axis {axis}", name, change


def swapped(index: GraphIndex) -> Iterator[Fault]:
    """Swap the first two classes."""
    for name, _, shape in floating(index):
        for axis in class_axes(shape or ()):
            size = shape[axis] if shape is not None else "?"
            if isinstance(size, int) and size > 1:
                yield "two classes swapped", f"{name}, axis {axis}", name, _swapper(name, axis, size)


def louder(index: GraphIndex) -> Iterator[Fault]:
    """Scale one channel by 1 %."""
    for name, kind, shape in floating(index):
        for axis in class_axes(shape or ()):
            if shape is not None and shape[axis] != 0:
                change = _scaler(name, kind, len(shape), {axis: middle(shape[axis])}, 1 + SHARE)
                yield "one channel +1 %", f"{name}, axis {axis}", name, change


def border(index: GraphIndex) -> Iterator[Fault]:
    """Double the outermost corner of a map."""
    for name, kind, shape in floating(index):
        if shape is not None and len(shape) > 2 and 0 not in shape:
            change = _scaler(name, kind, len(shape), dict.fromkeys(range(2, len(shape)), 0), 2.0)
            yield "wrong at the border", name, name, change


KINDS = (zeroed, swapped, louder, border)


def _scaler(name: str, kind: int, rank: int, place: dict[int, int], factor: float) -> Change:
    return lambda graph: scaled(graph, detach(graph, name), name, kind, rank, place, factor)


def _swapper(name: str, axis: int, size: int) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        inner, order = detach(graph, name), np.arange(size)
        order[:2] = order[1::-1]
        set_tensor(graph, f"{name}.order", order)
        graph.node.append(helper.make_node("Gather", [inner, f"{name}.order"], [name], f"mutant_{name}", axis=axis))

    return change
