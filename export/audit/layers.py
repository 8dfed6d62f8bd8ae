"""Check a runtime layer by layer: each node in float64 on the very inputs the runtime gave it.

    error of channel c  =  rms(y_c − y64_c) / ( 2⁻²⁴ · rms(x) · ‖w_c‖ )

Errors do not add up on their way, so a fault shows at its own layer however deep it lies, and however small its
effect on the output is. With the graph of an earlier stage as reference, a fault in the graph shows the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from attn_export import bundle
from attn_export.export.graph import cost
from attn_export.export.graph.cut import Probe
from attn_export.export.graph.index import is_standard
from attn_export.reparam.adapters.onnx.nodes import inputs_of
from attn_export.reparam.evaluate import transcendental
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.reparam.evaluate.transcendental import Kind
from attn_export.types import Array

#: The largest local error of a correct float32 layer, in roundings of its natural size: 10.1 was seen over the
#: catalogue and 12.5 in RepVGG-A0's classifier, where a channel is a single number; a weight off by 1 % gives 70 and
#: more. The bound lies between, a factor of two from what is right.
LOCAL = bundle.LOCAL
#: How many nodes are looked at in one run at least, and how many bytes of what they make are held at once: every run
#: computes all that comes before them once more.
CHUNK, HELD = 16, 1 << 27
_UNIT = 2.0**-24
#: By element type, its rounding in roundings of float32.
_COARSER: dict[int, float] = {onnx.TensorProto.FLOAT16: 2.0**-11 / _UNIT, onnx.TensorProto.BFLOAT16: 2.0**-9 / _UNIT}
#: Whatever lies below the smallest normal number may be flushed to zero: one rounding of this size.
_FLUSHED = 2.0**-126 / _UNIT


@dataclass(frozen=True)
class Local:
    """One layer: its node, and the error of its worst channel in roundings of the channel's natural size."""

    tensor: str
    op: str
    node: str
    channel: int
    error: float

    @property
    def ok(self) -> bool:
        """Whether it is within what rounding explains."""
        return self.error <= LOCAL


def local_errors(reference: onnx.ModelProto, runtime: Probe, feeds: Mapping[str, Array]) -> Iterator[Local]:
    """Yield every layer of floating-point output, in order.

    Args:
        reference: says what each node means.
        runtime: gives the tensors of the run under test, by the names that ``reference`` has; it is run once for
            every ``HELD`` bytes. Names it does not give are passed over, with the nodes that need them.
        feeds: the inputs of the run.
    """
    exact = OnnxEvaluator(reference)
    for rows in chunks(reference, feeds):
        names = {name for i in rows for name in (*inputs_of(exact.nodes[i]), *exact.nodes[i].output) if name}
        needed = sorted(names - exact.constants.keys() - feeds.keys())
        values = {**feeds, **dict(runtime(needed))}
        for index in rows:
            node = exact.nodes[index]
            needed = [*(name for name in inputs_of(node) if name not in exact.constants), node.output[0]]
            if all(name in values for name in needed) and values[node.output[0]].dtype.kind == "f":
                yield _local(exact, index, values)


def chunks(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Iterator[range]:
    """Yield the nodes that are looked at in one run: as many as make ``HELD`` bytes, and ``CHUNK`` at least.

    What makes tensors of unknown size is taken to make a share of ``HELD``, so that no more than ``CHUNK`` of them come
    together.
    """
    known = cost.tensor_bytes(model, {name: value.shape for name, value in feeds.items()})
    first, held, nodes = 0, 0, model.graph.node
    for index, node in enumerate(nodes):
        more = sum(known.get(name, HELD // CHUNK) for name in node.output if name)
        if index - first >= CHUNK and held + more > HELD:
            yield range(first, index)
            first, held = index, 0
        held += more
    if first < len(nodes):
        yield range(first, len(nodes))


def _local(exact: OnnxEvaluator, index: int, values: Mapping[str, Array]) -> Local:
    node = exact.nodes[index]
    expected, actual = exact.step(index, values)[0], values[node.output[0]].astype(np.float64)
    if actual.shape == expected.shape and not actual.size:
        return Local(node.output[0], node.op_type, node.name, 0, 0.0)
    if actual.shape != expected.shape:
        return Local(node.output[0], node.op_type, node.name, 0, float("inf"))
    inputs = [values.get(name, exact.constants.get(name)) for name in node.input if name]
    # So are infinities of one sign, such as those of a mask, of which no size is taken, and rows that are none.
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    actual, expected = (np.where(same & ~np.isfinite(expected), 0.0, v) for v in (actual, expected))
    scale, axis = natural(node, [_finite(v) for v in inputs if v is not None], expected)
    around = tuple(a for a in range(expected.ndim) if a != axis)
    error, size = (np.sqrt(np.mean(v**2, axis=None if axis is None else around)) for v in (actual - expected, expected))
    scale = np.maximum(scale, size * _rounding(node))
    scale = np.maximum(np.maximum(scale, size), _FLUSHED)  # a sum of one sign is larger than its random walk
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.atleast_1d(np.where(error == 0, 0.0, error / (_UNIT * scale)))
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    worst = int(ratio.argmax())
    return Local(node.output[0], node.op_type, node.name, worst, float(ratio[worst]))


def _rounding(node: onnx.NodeProto) -> float:
    """Say how many roundings of float32 one of this node is: a cast to a half loses what it is meant to."""
    to = next((a.i for a in node.attribute if a.name == "to"), 0) if node.op_type == "Cast" else 0
    return _COARSER.get(to, 1.0)


def _finite(value: Array) -> Array:
    """Give an operand as float64, without the infinities of a mask."""
    wide = np.asarray(value, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(wide.sum()):  # one pass and no copy, where there are none
            return wide
    return np.where(np.isfinite(wide), wide, 0.0)


def natural(node: onnx.NodeProto, inputs: Sequence[Array], expected: Array) -> tuple[Array | float, int | None]:
    """Find the size that rounding errors of this node are relative to, and its axis; None: one for all."""
    measure = _SIZES.get(node.op_type)
    if measure is not None:
        return measure(node, inputs, expected)
    kind = transcendental.OPERATORS.get(node.op_type) if is_standard(node) else None
    if kind is not None:
        return _granted(node, kind, inputs, expected), None
    floats = [rms(value) for value in inputs if value.shape == expected.shape]
    return max([rms(expected), *(floats if node.op_type in _CANCELLING else [])]), None


def rms(values: Array) -> float:
    """Root of the mean square.

    >>> rms(np.array([3.0, 4.0, 0.0, 0.0]))
    2.5
    """
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


Measure = Callable[[onnx.NodeProto, Sequence[Array], Array], tuple["Array | float", "int | None"]]

_CANCELLING = {"Add", "Sub", "Sum", "ReduceMean", "ReduceSum", "Mul", "Max", "Min"}


def _convolution(node: onnx.NodeProto, inputs: Sequence[Array], _: Array) -> tuple[Array | float, int | None]:
    x, weight = inputs[:2]
    if node.op_type == "ConvTranspose":
        weight = weight.swapaxes(0, 1) if len(weight) == x.shape[1] else weight
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        size = np.tile(_lengths(weight), groups)
    else:
        size = _lengths(weight)
    return _plus_bias(rms(x) * size, inputs), 1


def _lengths(weight: Array) -> Array:
    """Norm of every kernel, without a copy of all of them."""
    rows = weight.reshape(len(weight), -1)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))


def _matrix(node: onnx.NodeProto, inputs: Sequence[Array], expected: Array) -> tuple[Array | float, int | None]:
    x, weight = inputs[:2]
    flags = {a.name: a.i for a in node.attribute if a.name in ("transA", "transB")}
    columns = weight.T if flags.get("transB") else weight
    if columns.ndim == 1 or expected.ndim == 0:
        return rms(x) * float(np.linalg.norm(columns)), None
    size = np.sqrt(np.einsum("...ij,...ij->...j", columns, columns))  # one norm a column, and a matrix of the stack
    return _plus_bias(rms(x) * size.reshape(-1, size.shape[-1]).max(0), inputs), expected.ndim - 1


def _norm(node: onnx.NodeProto, inputs: Sequence[Array], expected: Array) -> tuple[Array | float, int | None]:
    """Subtracting the mean cancels: rounding is relative to what was there before."""
    x = inputs[0]
    spread = float(np.sqrt(np.mean((x - x.mean(-1, keepdims=True)) ** 2))) or 1.0
    lift = max(1.0, rms(x) / spread)
    if node.op_type == "BatchNormalization":
        factor = np.abs(inputs[1]) / np.sqrt(inputs[4])
        return factor * (rms(x) + np.abs(inputs[3])) + np.abs(inputs[2]), 1
    return rms(expected) * lift + max((rms(v) for v in inputs[1:]), default=0.0), None


def _granted(node: onnx.NodeProto, kind: Kind, inputs: Sequence[Array], expected: Array) -> float:
    """Find what functions that are no arithmetic are right to a share of: their range, and not a value far out.

    Over [−100, 100] ONNX Runtime's worst single number is off by 6.7 of these roundings (softmax) or 4.9 (Mish), and a
    whole layer by less than one: ``docs/parity.md``, ``tests/export/test_layers.py``.
    """
    if kind == "row" and expected.size:  # up to opset 12 a row is all axes from this one on
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1) % max(1, expected.ndim)
        return rms(expected.reshape(math.prod(expected.shape[:axis]), -1).max(1))
    amount = transcendental.amount(kind, expected, inputs[0])
    return rms(np.broadcast_to(amount, expected.shape))


def _recurrent(_: onnx.NodeProto, inputs: Sequence[Array], __: Array) -> tuple[Array | float, int | None]:
    """Gates have a range of 1, and inside them are sums of products with the input and with the state, at most 1."""
    x, weight, recurrence = inputs[:3]
    largest = [float(np.sqrt((value**2).sum(-1)).max(initial=0.0)) for value in (weight, recurrence)]
    return max(1.0, rms(x) * largest[0] + largest[1]), None


def _plus_bias(size: Array, inputs: Sequence[Array]) -> Array:
    return size + np.abs(inputs[2]).ravel() if len(inputs) > 2 and inputs[2].size in (1, size.size) else size


_SIZES: Mapping[str, Measure] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "MatMul": _matrix,
    "Gemm": _matrix,
    "LayerNormalization": _norm,
    "InstanceNormalization": _norm,
    "GroupNormalization": _norm,
    "BatchNormalization": _norm,
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _recurrent),
}
