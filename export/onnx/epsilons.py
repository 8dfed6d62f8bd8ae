"""Find the small constants that the exporter lost: an epsilon that is added or clamped to, and is in no node after.

The exporter takes ``x + c`` for ``x`` where c is at most 1e-8 (torch 2.13). On ordinary inputs nothing shows; where
``x`` is 0 and a divisor, NaN does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx import numpy_helper

#: Larger ones are no epsilons, and change outputs enough for parity to see.
LARGEST = 1e-3
_KINDS = {"add", "sub", "rsub", "clamp", "clamp_min", "clamp_max"}


def lost(program: torch.export.ExportedProgram, model: onnx.ModelProto) -> tuple[float, ...]:
    """Small constants that the traced module adds or clamps to, and the model holds nowhere.

    What is computed from parameters and constants alone does not count: folding it is right.
    """
    there = set(_constants(model))
    return tuple(sorted(value for value in _epsilons(program) if float(np.float32(value)) not in there))


def _epsilons(program: torch.export.ExportedProgram) -> set[float]:
    alive = set(program.graph_signature.user_inputs)
    found = set()
    for node in program.graph.nodes:
        if any(read.name in alive for read in node.all_input_nodes):
            alive.add(node.name)
            if set(str(node.target).split(".")) & _KINDS:  # such as aten.add.Tensor
                found |= {abs(v) for v in node.args[1:] if isinstance(v, float) and np.float32(v) and abs(v) < LARGEST}
    return found


def _constants(model: onnx.ModelProto) -> Iterator[float]:
    """Magnitude of every constant of one element, wherever a model may hold it."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    attributes = [attribute for node in nodes for attribute in node.attribute]
    for tensor in (*model.graph.initializer, *(a.t for a in attributes if a.type == a.TENSOR)):
        value = numpy_helper.to_array(tensor)
        if value.size == 1 and value.dtype.kind == "f":
            yield abs(float(np.float32(value.item())))
    yield from (abs(a.f) for a in attributes if a.type == a.FLOAT)
