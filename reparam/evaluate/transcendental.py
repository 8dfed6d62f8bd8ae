"""How exactly correct float32 runtimes compute functions that are no arithmetic: to 2⁻²³ of a range, not of a value.

ONNX Runtime, vendors' libraries and vectorised code in general approximate sigmoid, tanh, erf and their kin by
polynomials on an interval. Such an approximation is right to about 1e-7 of the function's range, everywhere: far out,
where sigmoid is 1e-12, nothing of the value need be right. Measured: ``docs/parity.md``, ``benchmarks.transcendental``.

``stray`` moves results by that much: one more correct float32 run, carried through the network. Up or down at random,
and all of them up: the error of a polynomial is a function of its argument, so that over a smooth area, or in a sum of
alike terms, it has one sign and does not average out.

| kind | moved by 2⁻²³ times | functions |
|---|---|---|
| range | 1 | sigmoid, tanh, erf, sin, cos, the exponential part of ELU |
| row | the largest of the row | softmax: its exponentials are right to 2⁻²³, and are divided by their sum |
| input | the input | functions that multiply their input with one of the first kind: SiLU, GELU, Mish |
| one | the value, and at least 1 | softplus, logarithms |
| value | the value | exp, whose range has no end |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, NodeProto

from attn_export.reparam.adapters.onnx.nodes import subgraphs
from attn_export.types import Array

#: Of the range of a function.
ACCURACY = 2.0**-23

#: The opset from which on a softmax has its last axis by default.
FROM_LAST = 13

Kind = Literal["range", "row", "input", "one", "value"]
Way = Literal["either", "up"]

#: By ONNX's names.
OPERATORS: Mapping[str, Kind] = {
    **dict.fromkeys(
        ("Sigmoid", "Tanh", "Erf", "Sin", "Cos", "Elu", "Selu", "Celu", "Softsign", "HardSigmoid"), "range"
    ),
    "Softmax": "row",
    **dict.fromkeys(("Gelu", "HardSwish", "Swish", "Mish"), "input"),
    **dict.fromkeys(("Softplus", "Log", "LogSoftmax"), "one"),
    "Exp": "value",
}


#: Those with such functions inside, at every step of time: ``stray_activation`` is for those.
RECURRENT = frozenset({"RNN", "GRU", "LSTM"})


def amount(kind: Kind, result: Array, argument: Array, axis: int = -1) -> Any:
    """Give what a function is right to 2⁻²³ of, element by element or one for several; arguments as ``stray`` has."""
    return _AMOUNTS[kind](result, argument, axis)


class Signs:
    """Which way each element is moved: up, or either way as a generator draws."""

    def __init__(self, way: Way) -> None:
        self._random = np.random.default_rng(0) if way == "either" else None

    def __call__(self, shape: tuple[int, ...]) -> Array:
        """Give 1 or -1 for every element."""
        if self._random is None:
            return np.ones(shape, np.float32)
        return self._random.integers(0, 2, shape, np.int8) * np.float32(2) - np.float32(1)


def stray(kind: Kind, result: Array, argument: Array, axis: int, signs: Signs) -> Array:
    """Move every element of a float32 result by what a correct runtime may be off.

    Args:
        kind: of the function.
        result: what the function gave.
        argument: what it was given; of the result's shape where ``kind`` is ``input``.
        axis: of the row where ``kind`` is ``row``.
        signs: which way.
    """
    size = np.asarray(amount(kind, result, argument, axis), np.float32)
    size = np.where(np.isfinite(size), size, np.float32(0))  # what is infinite or NaN stays so
    with np.errstate(all="ignore"):
        return np.asarray(result + signs(result.shape) * (np.float32(ACCURACY) * size), result.dtype)


def stray_node(
    node: NodeProto, opset: int, results: Sequence[Any], arguments: Sequence[Any], signs: Signs
) -> list[Any]:
    """Move what a node gave, if its operator is in the table; states and their sequences alike."""
    kind = None if node.domain not in ("", "ai.onnx") else OPERATORS.get(node.op_type)
    if kind is None:
        return list(results)
    named = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
    axis = named if named is not None else -1 if opset >= FROM_LAST else 1
    return [
        result
        if result is None or not isinstance(result, np.ndarray) or result.dtype.kind != "f"
        else stray(kind, result, np.asarray(arguments[0]), axis if result.ndim > 1 else 0, signs)
        for result in results
    ]


def stray_activation(signs: Signs, result: Array, argument: Array) -> Array:
    """Move what a function inside a recurrent layer gave."""
    return stray("range", result, argument, -1, signs)


def found_in(model: ModelProto) -> bool:
    """Tell whether a graph, one inside it or a function of it has an operator of the table."""
    todo = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while todo:
        node = todo.pop()
        if node.op_type in OPERATORS or node.op_type in RECURRENT:
            return True
        for graph in subgraphs(node):
            todo.extend(graph.node)
    return False


def _row(result: Array, _: Array, axis: int) -> Any:
    return result.max(axis=axis, keepdims=True) if result.size and result.ndim else result


_AMOUNTS: Mapping[Kind, Callable[[Array, Array, int], Any]] = {
    "range": lambda _, __, ___: np.float32(1),
    "row": _row,
    "input": lambda _, argument, __: np.abs(argument),
    "one": lambda result, _, __: np.maximum(np.abs(result), np.float32(1)),
    "value": lambda result, _, __: np.abs(result),
}
