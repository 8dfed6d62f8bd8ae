"""Faults that show only on some inputs. Each function yields kind, place, the tensor it changes, the change and when.

    y = Where( Shape(x)₀ > 8, 2·y, y )

A case that does not meet the condition cannot notice such a fault: it has survived, however equal it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attn_export.export.graph.index import GraphIndex, attribute, insert, set_tensor
from attn_export.export.mutants.outputs import detach, floating
from attn_export.export.mutants.weights import Change
from attn_export.types import Array, Feeds

#: The batch up to which a graph that forgets larger ones is right.
BATCH = 8


@dataclass(frozen=True)
class Condition:
    """When a fault shows.

    Attributes:
        text: in words.
        met: whether inputs meet it; None where only a run can tell.
    """

    text: str
    met: Callable[[Feeds], bool] | None = None


ConditionalFault = tuple[str, str, str, Change, Condition]
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_Node = tuple[str, list[str], str]


def beyond_batch(index: GraphIndex) -> Iterator[ConditionalFault]:
    """Double the output for batches of more than ``BATCH``, where the batch is free."""
    free = (v.name for v in index.inputs if isinstance((index.shape(v.name) or (0,))[0], str))
    if (source := next(free, None)) is None:
        return
    steps: list[_Node] = [
        ("Shape", [source], "sizes"),
        ("Gather", ["sizes", "first"], "batch"),
        ("Greater", ["batch", "most"], "when"),
    ]
    held: dict[str, Array] = {"first": np.asarray(0, np.int64), "most": np.asarray(BATCH, np.int64)}
    condition = Condition(f"wrong only beyond batch {BATCH}", lambda feeds: len(feeds[source]) > BATCH)
    yield from _doubled(index, f"wrong beyond a batch of {BATCH}", steps, held, condition)


def non_negative(index: GraphIndex) -> Iterator[ConditionalFault]:
    """Double the output where no number of the first input is negative, as in an image that was only scaled."""
    if (source := _first(index)) is None:
        return
    dtype = helper.tensor_dtype_to_np_dtype(index.element_type(source))
    steps: list[_Node] = [
        ("ReduceMin", [source], "least"),
        ("Less", ["least", "zero"], "negative"),
        ("Not", ["negative"], "when"),
    ]
    condition = Condition(
        f"wrong only where {source!r} is nowhere negative", lambda feeds: bool((feeds[source] >= 0).all())
    )
    yield from _doubled(index, "wrong on non-negative inputs", steps, {"zero": np.zeros((), dtype)}, condition)


def constant(index: GraphIndex) -> Iterator[ConditionalFault]:
    """Double the output where the first input is one number throughout, as in a black image."""
    if (source := _first(index)) is None:
        return
    steps: list[_Node] = [
        ("ReduceMin", [source], "least"),
        ("ReduceMax", [source], "largest"),
        ("Equal", ["least", "largest"], "when"),
    ]
    condition = Condition(
        f"wrong only where {source!r} is one number throughout",
        lambda feeds: bool((feeds[source] == feeds[source].ravel()[:1]).all()),
    )
    yield from _doubled(index, "wrong on constant inputs", steps, {}, condition)


def embedding(index: GraphIndex) -> Iterator[ConditionalFault]:
    """Forget the last row of a table, and the middle one."""
    inputs = {value.name for value in index.inputs}
    for node in index.standard:
        if node.op_type != "Gather" or attribute(node, "axis", 0) != 0 or node.input[0] not in index.tensors:
            continue
        name, rows = node.input
        table = index.array(name)
        if index.is_constant(rows) or table.dtype.kind != "f" or table.ndim < 2:
            continue
        for row in dict.fromkeys((len(table) - 1, len(table) // 2)):
            if len(table) and table[row].any():
                met = _reads(rows, row, len(table)) if rows in inputs else None
                condition = Condition(f"wrong only where row {row} of {name!r} is read", met)
                yield (
                    "a row of an embedding zeroed",
                    f"{name}[{row}]",
                    node.output[0],
                    _forgetter(index, name, row),
                    condition,
                )


def mask(index: GraphIndex) -> Iterator[ConditionalFault]:
    """Let everything through a mask; in floating point that may be zeros, which are added, or ones."""
    for value in index.inputs:
        kind, name = index.element_type(value.name), value.name
        if not kind or name not in index.readers or not (kind == TensorProto.BOOL or "mask" in name.lower()):
            continue
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        for letting in (0, 1) if kind in _FLOATS else (1,):
            condition = Condition(f"wrong only where {name!r} hides something", _hides(name, letting))
            where = f"{name}, {letting} throughout" if kind in _FLOATS else name
            change = _ignorer(name, np.full(1, letting, dtype))
            yield "a mask ignored", where, index.readers[name][0].output[0], change, condition


KINDS = (beyond_batch, non_negative, constant, embedding, mask)


def _first(index: GraphIndex) -> str | None:
    return next((value.name for value in index.inputs if index.element_type(value.name) in _FLOATS), None)


def _doubled(
    index: GraphIndex, kind: str, steps: list[_Node], held: dict[str, Array], condition: Condition
) -> Iterator[ConditionalFault]:
    """Yield for every output the fault that doubles it where ``when``, which the steps make, is true."""
    for name, element, _ in floating(index):
        own = {made: f"{name}.{made}" for *_, made in steps} | {given: f"{name}.{given}" for given in held}

        def change(graph: onnx.GraphProto, name: str = name, own: dict[str, str] = own, element: int = element) -> None:
            inner, two = detach(graph, name), np.asarray(2, helper.tensor_dtype_to_np_dtype(element))
            for given, value in (held | {"two": two}).items():
                set_tensor(graph, f"{name}.{given}", np.asarray(value))
            for op, inputs, made in steps:
                more: dict[str, Any] = {"keepdims": 0} if op.startswith("Reduce") else {}
                read = [own.get(item, item) for item in inputs]
                graph.node.append(helper.make_node(op, read, [own[made]], f"mutant_{own[made]}", **more))
            twice, when = f"{name}.twice", own["when"]
            graph.node.append(helper.make_node("Mul", [inner, f"{name}.two"], [twice], f"mutant_{twice}"))
            graph.node.append(helper.make_node("Where", [when, twice, inner], [name], f"mutant_{name}"))

        yield kind, name, name, change, condition


def _forgetter(index: GraphIndex, name: str, row: int) -> Change:
    def change(graph: onnx.GraphProto) -> None:  # a table may be large: it is copied when this is asked for
        table = index.array(name).copy()
        table[row] = 0
        set_tensor(graph, name, table)

    return change


def _reads(rows: str, row: int, count: int) -> Callable[[Feeds], bool]:
    return lambda feeds: bool(np.isin(feeds[rows], (row, row - count)).any())


def _hides(name: str, letting: int) -> Callable[[Feeds], bool]:
    return lambda feeds: bool((feeds[name] != letting).any())


def _ignorer(name: str, value: Array) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for place, item in enumerate(node.input):
                if item == name:
                    node.input[place] = f"{name}.ignored"
        nodes = [
            helper.make_node("Shape", [name], [f"{name}.shape"], f"mutant_{name}_shape"),
            helper.make_node(
                "ConstantOfShape",
                [f"{name}.shape"],
                [f"{name}.ignored"],
                f"mutant_{name}",
                value=numpy_helper.from_array(value),
            ),
        ]
        insert(graph, 0, nodes)

    return change
