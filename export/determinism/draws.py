"""Who draws random numbers: nodes of a graph by their names, calls of a module's code by their lines."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper, numpy_helper
from torch.utils._python_dispatch import TorchDispatchMode

from attn_export.export.determinism import lines
from attn_export.export.graph.origin import noted
from attn_export.reparam.adapters.onnx.nodes import subgraphs
from attn_export.reparam.evaluate import claims


def of_graph(model: onnx.ModelProto) -> list[str]:
    """List the nodes of a graph, its sub-graphs and functions that draw random numbers, each with its place."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in _nodes(model):
        if values := [a.t for a in node.attribute if node.op_type == "Constant" and a.HasField("t")]:
            constants[node.output[0]] = values[0]
        if claims.draws(node) or (node.op_type == "Dropout" and _drops(node, constants, opset)):
            origin = noted(node)
            place = f" ({origin.summary()})" if origin else ""
            found.append(f"{node.op_type} {node.name or node.output[0]!r}{place}")
    return found


def _nodes(model: onnx.ModelProto) -> Iterator[NodeProto]:
    todo = [*model.graph.node, *(node for function in model.functions for node in function.node)][::-1]
    while todo:
        node = todo.pop()
        yield node
        todo.extend(inner for graph in subgraphs(node) for inner in graph.node)


def _drops(node: NodeProto, constants: Mapping[str, onnx.TensorProto], opset: int) -> bool:
    """Whether a Dropout is one of training, as far as constants say."""
    if opset >= 12:
        return bool(_constant(node, 2, constants, 0.0)) and _constant(node, 1, constants, 0.5) != 0
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return opset < 7 and not attributes.get("is_test", 0) and attributes.get("ratio", 0.5) != 0


def _constant(node: NodeProto, place: int, constants: Mapping[str, onnx.TensorProto], default: float) -> float:
    """Read a number that a node takes; the default where it takes none, or one that only a run knows."""
    name = node.input[place] if len(node.input) > place else ""
    return float(numpy_helper.to_array(constants[name]).reshape(-1)[0]) if name in constants else default


def shared() -> dict[str, object]:
    """Note the generators that everything shares: PyTorch's, NumPy's and Python's."""
    return {"torch": torch.get_rng_state().numpy().tobytes(), **_pythons()}


def _pythons() -> dict[str, object]:
    """Note NumPy's shared generator and Python's own."""
    return {"numpy.random": str(np.random.get_state(legacy=False)), "random": random.getstate()}  # noqa: NPY002


def of_code(run: Callable[[], object]) -> list[str]:
    """Run again, and list what draws random numbers, each once, with the user's line."""
    found: dict[str, None] = {}
    with _Noting(found):
        run()
    return [*found, *(f"{name} in {where}" for name, where in lines.writers(_pythons, run).items())]


class _Noting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes PyTorch's operators that draw."""

    def __init__(self, found: dict[str, None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the function that was asked for and the line that asked, where the operator draws."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            name, frame = func.overloadpacket.__name__, sys._getframe(1)
            while (outer := frame.f_back) is not None and lines.torchs(frame):
                if frame.f_code.co_filename.endswith("functional.py"):
                    name = f"nn.functional.{frame.f_code.co_name}"
                frame = outer
            self.found[f"torch.{name} in {lines.place(frame)}"] = None
        return func(*args, **(kwargs or {}))
