"""Faults in constant tensors. Each function yields kind, tensor, the first node that reads it, and the change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import onnx

from attn_export.export.graph.index import GraphIndex, find, set_tensor
from attn_export.types import Array

Change = Callable[[onnx.GraphProto], None]
Fault = tuple[str, str, str, Change]

#: How much one weight is moved.
SHARE = 0.01


def zeroed(index: GraphIndex) -> Iterator[Fault]:
    """Forget a whole tensor that is no bias."""
    biases = {name for _, name in _biases(index)}
    for name in _weights(index):
        if name not in biases and not index.is_zero(name):
            yield "weight zeroed", name, _reader(index, name), _setter(index, name, np.zeros_like)


def nudged(index: GraphIndex) -> Iterator[Fault]:
    """Move the weight of median size up by 1 %, or the largest down."""
    for name in _weights(index):
        if not index.is_zero(name):
            yield "one weight +1 %", name, _reader(index, name), _setter(index, name, _middle_up)
            yield "one weight -1 %", name, _reader(index, name), _setter(index, name, _largest_down)


def _middle_up(value: Array) -> Array:
    size, changed = np.abs(value).ravel(), value.copy()
    places = np.flatnonzero(size)  # a zero would stay one
    middle = places.size // 2
    changed.ravel()[places[np.argpartition(size[places], middle)[middle]]] *= 1 + SHARE
    return changed


def _largest_down(value: Array) -> Array:
    changed = value.copy()
    changed.ravel()[np.abs(value).argmax()] *= 1 - SHARE
    return changed


def swapped(index: GraphIndex) -> Iterator[Fault]:
    """Swap two output channels: the first two of a convolution or ``Gemm``, the first two columns of a product."""
    for name in _weights(index):
        sizes, node = index.tensors[name].dims, index.readers[name][0]
        axis = 0
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and not _transposes(node)):
            axis = len(sizes) - 1
        if sizes[axis] < 2:
            continue
        value = index.array(name)
        if not np.array_equal(value.take(0, axis), value.take(1, axis)):
            yield "two channels swapped", name, _reader(index, name), _setter(index, name, partial(_swap, axis=axis))


def _swap(value: Array, axis: int) -> Array:
    order = np.arange(value.shape[axis])
    order[:2] = order[1::-1]
    return value.take(order, axis)


def without_bias(index: GraphIndex) -> Iterator[Fault]:
    """Drop a bias: the third input of a convolution or ``Gemm``, or a vector that is added."""
    for node, name in _biases(index):
        if node.op_type == "Add":
            yield "bias dropped", name, node.output[0], _setter(index, name, np.zeros_like)
        else:
            yield "bias dropped", name, node.output[0], _input_dropper(node.output[0], 2)


def transposed(index: GraphIndex) -> Iterator[Fault]:
    """Transpose a square weight, or the kernel of a convolution."""
    for name in _weights(index):
        sizes = tuple(index.tensors[name].dims)
        if len(sizes) == 4 and sizes[2] == sizes[3] > 1:
            axes: tuple[int, int] = (2, 3)
        elif len(sizes) >= 2 and sizes[0] == sizes[1] > 1 and math.prod(sizes[2:]) == 1:
            axes = (0, 1)
        elif len(sizes) == 3 and sizes[1] == sizes[2] > 1:
            axes = (1, 2)
        else:
            continue
        yield "square weight transposed", name, _reader(index, name), _setter(index, name, partial(_turn, axes=axes))


def _turn(value: Array, axes: tuple[int, int]) -> Array:
    return value.swapaxes(*axes)


def epsilon_constant(index: GraphIndex) -> Iterator[Fault]:
    """Take a hundred times the small constant that guards a division or a root."""
    for name in index.floats():
        if math.prod(index.tensors[name].dims) != 1:
            continue
        value = index.array(name)
        if 0 < float(value.ravel()[0]) <= 1e-2:
            for node in index.readers[name]:
                if node.op_type in ("Add", "Max", "Clip"):
                    yield "epsilon x100", name, node.output[0], _setter(index, name, _hundredfold)
                    break


def _hundredfold(value: Array) -> Array:
    return np.asarray(value * np.asarray(100, value.dtype))


KINDS = (zeroed, nudged, swapped, without_bias, transposed, epsilon_constant)


def _weights(index: GraphIndex) -> list[str]:
    return [name for name in index.floats() if int(np.prod(index.tensors[name].dims)) > 1]


def _biases(index: GraphIndex) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in index.nodes:
        names: list[str] = []
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2:
            names = [node.input[2]]
        elif node.op_type == "Add" and any(map(index.computed, node.input)):
            names = [name for name in node.input if name in index.tensors and _is_vector(index, name)]
        yield from ((node, name) for name in names if name in index.tensors)


def _is_vector(index: GraphIndex, name: str) -> bool:
    dims = index.tensors[name].dims
    return int(np.prod(dims)) > 1 and sum(size > 1 for size in dims) == 1


def _reader(index: GraphIndex, name: str) -> str:
    return str(index.readers[name][0].output[0])


def _transposes(node: onnx.NodeProto) -> bool:
    return any(a.name == "transB" and a.i for a in node.attribute)


def _setter(index: GraphIndex, name: str, change: Callable[[Array], Array]) -> Change:
    """Change a tensor when the fault is injected: all of them at once would be several times the model."""
    return lambda graph: set_tensor(graph, name, change(index.array(name)))


def _input_dropper(output: str, position: int) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        node = graph.node[find(graph, output)]
        del node.input[position:]

    return change
