"""Faults in constant tensors. Each function yields kind, tensor, the first node that reads it, and the change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
        if name not in biases and index.array(name).any():
            yield "weight zeroed", name, _reader(index, name), _setter(name, np.zeros_like(index.array(name)))


def nudged(index: GraphIndex) -> Iterator[Fault]:
    """Move the weight of median size up by 1 %, or the largest down."""
    for name in _weights(index):
        value = index.array(name)
        size = np.abs(value).ravel()
        places = np.flatnonzero(size)  # a zero would stay one
        if not places.size:
            continue
        middle = places[np.argpartition(size[places], places.size // 2)[places.size // 2]]
        for kind, place, sign in (("one weight +1 %", middle, 1), ("one weight -1 %", size.argmax(), -1)):
            changed = value.copy()
            changed.ravel()[place] *= 1 + sign * SHARE
            yield kind, name, _reader(index, name), _setter(name, changed)


def swapped(index: GraphIndex) -> Iterator[Fault]:
    """Swap two output channels: the first two of a convolution or ``Gemm``, the first two columns of a product."""
    for name in _weights(index):
        value, node = index.array(name), index.readers[name][0]
        axis = 0
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and not _transposes(node)):
            axis = value.ndim - 1
        if value.shape[axis] < 2:
            continue
        order = np.arange(value.shape[axis])
        order[:2] = order[1::-1]
        if not np.array_equal(changed := value.take(order, axis), value):
            yield "two channels swapped", name, _reader(index, name), _setter(name, changed)


def without_bias(index: GraphIndex) -> Iterator[Fault]:
    """Drop a bias: the third input of a convolution or ``Gemm``, or a vector that is added."""
    for node, name in _biases(index):
        if node.op_type == "Add":
            yield "bias dropped", name, node.output[0], _setter(name, np.zeros_like(index.array(name)))
        else:
            yield "bias dropped", name, node.output[0], _input_dropper(node.output[0], 2)


def transposed(index: GraphIndex) -> Iterator[Fault]:
    """Transpose a square weight, or the kernel of a convolution."""
    for name in _weights(index):
        value = index.array(name)
        if value.ndim == 4 and value.shape[2] == value.shape[3] > 1:
            axes: tuple[int, int] = (2, 3)
        elif value.ndim >= 2 and value.shape[0] == value.shape[1] > 1 and value[0, 0].size == 1:
            axes = (0, 1)
        elif value.ndim == 3 and value.shape[1] == value.shape[2] > 1:
            axes = (1, 2)
        else:
            continue
        yield "square weight transposed", name, _reader(index, name), _setter(name, value.swapaxes(*axes))


def epsilon_constant(index: GraphIndex) -> Iterator[Fault]:
    """Take a hundred times the small constant that guards a division or a root."""
    for name in index.floats():
        value = index.array(name)
        if value.size == 1 and 0 < float(value.ravel()[0]) <= 1e-2:
            for node in index.readers[name]:
                if node.op_type in ("Add", "Max", "Clip"):
                    yield "epsilon x100", name, node.output[0], _setter(name, value * np.asarray(100, value.dtype))
                    break


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


def _setter(name: str, value: Array) -> Change:
    return lambda graph: set_tensor(graph, name, value)


def _input_dropper(output: str, position: int) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        node = graph.node[find(graph, output)]
        del node.input[position:]

    return change
