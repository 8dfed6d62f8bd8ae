"""Operators that hold graphs: If, Loop, Scan, SequenceMap, and calls of a model's own functions.

Each maker takes the node's attributes (graphs as ``Body``), the names that the graphs read from outside, and the opset;
its runner takes the node's inputs and then the values of those names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from onnx import FunctionProto, GraphProto, ValueInfoProto, helper

Runner = Callable[[Sequence[Any]], Sequence[Any]]


class ControlGraph(Protocol):
    """What evaluates a graph: ``OnnxEvaluator``."""

    dtype: np.dtype[Any]
    inputs: list[str]
    outputs: list[str]

    def inside(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return its outputs by name."""


class Body:
    """A graph inside a node."""

    def __init__(self, graph: GraphProto, evaluator: ControlGraph) -> None:
        self.inputs, self.outputs = list(graph.input), list(graph.output)
        self._evaluator = evaluator

    def __call__(self, arguments: Sequence[Any], captured: Mapping[str, Any]) -> list[Any]:
        """Its outputs, in order."""
        names = [value.name for value in self.inputs]
        results = self._evaluator.inside({**captured, **dict(zip(names, arguments, strict=True))})
        return [results[value.name] for value in self.outputs]

    def none_of(self, port: ValueInfoProto) -> Any:
        """Make what no round at all gives for a scan output: as many axes as it has, and one of length 0 before.

        An axis of unknown length has none.
        """
        kind = port.type.tensor_type
        dims = [dim.dim_value for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else self._evaluator.dtype
        return np.zeros((0, *dims), dtype)


def call(evaluator: ControlGraph, function: FunctionProto) -> Runner:
    """Make a call: inputs that are left out are absent inside as well."""

    def run(arguments: Sequence[Any]) -> Sequence[Any]:
        padded = [*arguments, *[None] * (len(function.input) - len(arguments))]
        results = evaluator.inside(dict(zip(function.input, padded, strict=True)))
        return [results[name] for name in function.output]

    return run


def _if(attributes: Mapping[str, Any], captured: Sequence[str], _: int) -> Runner:
    def run(arguments: Sequence[Any]) -> Sequence[Any]:
        branch = attributes["then_branch" if _true(arguments[0]) else "else_branch"]
        return list(branch([], dict(zip(captured, arguments[1:], strict=True))))

    return run


def _loop(attributes: Mapping[str, Any], captured: Sequence[str], _: int) -> Runner:
    body: Body = attributes["body"]

    def run(arguments: Sequence[Any]) -> Sequence[Any]:
        own = len(arguments) - len(captured)
        outer = dict(zip(captured, arguments[own:], strict=True))
        most, goes_on, carried = arguments[0], arguments[1], list(arguments[2:own])
        collected: list[list[Any]] = [[] for _ in body.outputs[1 + len(carried) :]]
        rounds, on = 0, goes_on is None or _true(goes_on)
        while on and (most is None or rounds < int(np.asarray(most).reshape(()))):
            count = _like(np.int64(rounds), body.inputs[0])
            going, *rest = body([count, _like(np.bool_(on), body.inputs[1]), *carried], outer)
            carried, scanned = rest[: len(carried)], rest[len(carried) :]
            for values, value in zip(collected, scanned, strict=True):
                values.append(value)
            rounds, on = rounds + 1, _true(going)
        ports = body.outputs[1 + len(carried) :]
        return [
            *carried,
            *(np.stack(v) if v else body.none_of(port) for v, port in zip(collected, ports, strict=True)),
        ]

    return run


def _scan(attributes: Mapping[str, Any], captured: Sequence[str], opset: int) -> Runner:
    run_one = _scan_one(attributes, captured)
    return run_one if opset >= 9 else _scan_batch(attributes, captured)


def _scan_one(attributes: Mapping[str, Any], captured: Sequence[str]) -> Runner:
    body: Body = attributes["body"]
    count = int(attributes["num_scan_inputs"])

    def run(arguments: Sequence[Any]) -> Sequence[Any]:
        own = len(arguments) - len(captured)
        outer = dict(zip(captured, arguments[own:], strict=True))
        state, scanned = list(arguments[: own - count]), arguments[own - count : own]
        axes = attributes.get("scan_input_axes") or [0] * count
        ways = attributes.get("scan_input_directions") or [0] * count
        rows = [np.moveaxis(x, axis, 0) for x, axis in zip(scanned, axes, strict=True)]
        rows = [x[::-1] if way else x for x, way in zip(rows, ways, strict=True)]
        ports = body.outputs[len(state) :]
        collected: list[list[Any]] = [[] for _ in ports]
        for step in range(rows[0].shape[0]):
            results = body([*state, *(x[step] for x in rows)], outer)
            state, values = results[: len(state)], results[len(state) :]
            for made, value in zip(collected, values, strict=True):
                made.append(value)
        axes = attributes.get("scan_output_axes") or [0] * len(ports)
        ways = attributes.get("scan_output_directions") or [0] * len(ports)
        outputs = []
        for made, port, axis, way in zip(collected, ports, axes, ways, strict=True):
            whole = np.stack(made[::-1] if way else made) if made else body.none_of(port)
            outputs.append(np.moveaxis(whole, 0, axis))
        return [*state, *outputs]

    return run


def _scan_batch(attributes: Mapping[str, Any], captured: Sequence[str]) -> Runner:
    """Scan of opset 8: everything has a batch axis before it, and each row may end early."""
    named = {**attributes, "scan_input_directions": attributes.get("directions")}
    one = _scan_one(named, captured)
    count = int(attributes["num_scan_inputs"])

    def run(arguments: Sequence[Any]) -> Sequence[Any]:
        own = len(arguments) - len(captured)
        lengths, given, outer = arguments[0], arguments[1:own], arguments[own:]
        longest = given[-1].shape[1]
        rows = []
        for row in range(given[-1].shape[0]):
            length = longest if lengths is None else int(lengths[row])
            state = [x[row] for x in given[:-count]]
            scanned = [x[row][:length] for x in given[-count:]]
            results = one([*state, *scanned, *outer])
            grown = [np.pad(x, [(0, longest - length), *[(0, 0)] * (x.ndim - 1)]) for x in results[len(state) :]]
            rows.append([*results[: len(state)], *grown])
        return [np.stack(values) for values in zip(*rows, strict=True)]

    return run


def _sequence_map(attributes: Mapping[str, Any], captured: Sequence[str], _: int) -> Runner:
    body: Body = attributes["body"]

    def run(arguments: Sequence[Any]) -> Sequence[Any]:
        own = len(arguments) - len(captured)
        outer = dict(zip(captured, arguments[own:], strict=True))
        given = arguments[:own]
        rows = [
            body([value[i] if isinstance(value, list) else value for value in given], outer)
            for i in range(len(given[0]))
        ]
        return [[row[place] for row in rows] for place in range(len(body.outputs))]

    return run


def _true(value: Any) -> bool:
    return bool(np.asarray(value).reshape(()))


def _like(value: Any, port: ValueInfoProto) -> Any:
    """Shape a number as the body declares it: some producers declare a vector of one."""
    rank = len(port.type.tensor_type.shape.dim) if port.type.tensor_type.HasField("shape") else 0
    return np.asarray(value).reshape((1,) * rank)


CONTROL: Mapping[str, Callable[[Mapping[str, Any], Sequence[str], int], Runner]] = {
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
    "SequenceMap": _sequence_map,
}
