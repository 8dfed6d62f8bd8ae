"""Which tensors of a ``.tflite`` file have codes: those around its layers, and what only moves or scales them.

A factor in front of codes is a factor of their scale: the product has the same codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attn_export.export.converters.litert.counterparts import NONE, RELU, RELU6, Counterpart
from attn_export.export.converters.litert.flatbuffer import File
from attn_export.export.quantise.codes import Code
from attn_export.export.quantise.pairs import Pairs

#: Operators that move values and compute nothing: what they give has the codes of what they take.
MOVES = frozenset({"EXPAND_DIMS", "MAX_POOL_2D", "PAD", "RESHAPE", "SLICE", "SQUEEZE", "TRANSPOSE"})


@dataclass(frozen=True)
class Coded:
    """The tensors of a file that have codes.

    Attributes:
        codes: by tensor.
        exact: those of them that are also read as they are computed.
        before: by tensor, the codes of what lies before a constant that the file adds within the operator.
    """

    codes: dict[int, Code]
    exact: Collection[int]
    before: Mapping[int, Code] = field(default_factory=dict)


def coded(file: File, pairs: Pairs, found: Sequence[Counterpart]) -> Coded:
    """Give tensors the codes of the int8 graph: around layers first, then through what only moves values."""
    codes: dict[int, Code] = {}
    exact = set[int]()
    before: dict[int, Code] = {}

    def known(tensor: int, name: str) -> None:
        if name in pairs.rounded:
            codes.setdefault(tensor, pairs.rounded[name])
            if name in pairs.exact:
                exact.add(tensor)

    for one in found:
        layer = one.layer.layer
        known(int(one.operator.inputs[0]), layer.reads)
        if _gives_the_same(one):
            known(int(one.operator.outputs[0]), layer.gives)
        elif one.added and layer.gives == layer.key and layer.gives in pairs.rounded:
            before[int(one.operator.outputs[0])] = pairs.rounded[layer.gives]
    _moved(file, codes)
    return Coded(codes, exact, before)


def _gives_the_same(one: Counterpart) -> bool:
    """Whether an operator gives what its layer's codes are for."""
    activation, layer = one.operator.builtinOptions.fusedActivationFunction, one.layer.layer
    absorbed = layer.gives != layer.key
    return not one.added and activation in ((NONE, RELU, RELU6) if absorbed else (NONE,))


def _moved(file: File, codes: dict[int, Code]) -> None:
    readers = Counter(int(tensor) for one in file.operators for tensor in one.inputs)
    for one in reversed(file.operators):
        source, into = ends(one)
        if file.name(one) in MOVES and into in codes and readers[source] == 1:
            codes.setdefault(source, codes[into])
    for one in file.operators:
        source, into = ends(one)
        if source not in codes or into in codes:
            continue
        if file.name(one) in MOVES:
            codes[into] = codes[source]
        elif (by := factor(file, one)) is not None:
            codes[into] = replace(codes[source], scale=float(np.float32(codes[source].scale * by)))


def ends(operator: Any) -> tuple[int, int]:
    """Give the first tensor that an operator takes, −1 where there is none, and the first that it gives."""
    return int(operator.inputs[0]) if len(operator.inputs) else -1, int(operator.outputs[0])


def factor(file: File, operator: Any) -> float | None:
    """Give the one positive number that an operator multiplies by; None where it does anything else."""
    if file.name(operator) != "MUL" or operator.builtinOptions.fusedActivationFunction != NONE:
        return None
    other = file.constant(int(operator.inputs[1]))
    return float(other.ravel()[0]) if other is not None and other.size == 1 and other.ravel()[0] > 0 else None
