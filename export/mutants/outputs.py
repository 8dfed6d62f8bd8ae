"""Put nodes before an output of a graph: what the mutants of outputs are made by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attn_export.export.graph.index import GraphIndex, Shape, set_tensor

#: Behind the name of an output, for the tensor that was it.
BEFORE = ".before"
#: Behind the name of a tensor of bfloat16, for the same in float32.
WIDE = ".wide"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def floating(index: GraphIndex) -> Iterator[tuple[str, int, Shape]]:
    """Yield the outputs of floating point that a node makes: name, element type and shape."""
    for name in dict.fromkeys(value.name for value in index.graph.output):
        if name in index.maker and index.element_type(name) in _FLOATS:
            yield name, index.element_type(name), index.shape(name)
        elif name in index.maker and index.element_type(name) == TensorProto.BFLOAT16:
            yield name, TensorProto.FLOAT, index.shape(name)


def detach(graph: onnx.GraphProto, name: str) -> str:
    """Let whoever makes the output ``name`` make an inner tensor instead; its name is returned.

    Runtimes compute in bfloat16 next to nothing: of such an output it is the tensor in float32, for ``reattach``.
    """
    inner = name + BEFORE
    for node in graph.node:
        for names in (node.input, node.output):
            for index, item in enumerate(names):
                if item == name:
                    names[index] = inner
    if not _is_brain(graph, name):
        return inner
    graph.node.append(helper.make_node("Cast", [inner], [inner + WIDE], f"mutant_{inner}", to=TensorProto.FLOAT))
    return inner + WIDE


def reattach(graph: onnx.GraphProto) -> None:
    """Round to bfloat16 what was made for outputs of that type, behind ``detach``."""
    made = {name: node for node in graph.node for name in node.output}
    for name in [value.name for value in graph.output if value.name + BEFORE + WIDE in made]:
        outputs = made[name].output
        outputs[list(outputs).index(name)] = name + WIDE
        graph.node.append(
            helper.make_node("Cast", [name + WIDE], [name], f"mutant_{name}_rounded", to=TensorProto.BFLOAT16)
        )


def _is_brain(graph: onnx.GraphProto, name: str) -> bool:
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    return bool(kinds.get(name) == TensorProto.BFLOAT16)


def scaled(
    graph: onnx.GraphProto, source: str, target: str, kind: int, rank: int, place: dict[int, int], factor: float
) -> None:
    """Multiply one place of a tensor by a factor: one index along each of some axes, for all indices of the others.

    Sizes are taken from the tensor when it runs, so that they may be free. The axes are one, or the last ones.
    """
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    axes = sorted(place)
    last = axes[-1]
    for name, value in (
        ("axes", np.asarray(axes, np.int64)),
        ("place", np.asarray([[place[axis] for axis in axes]], np.int64)),
        ("factor", np.asarray([factor], dtype)),
        ("shape", np.asarray([1] * axes[0] + [-1] + [1] * (rank - 1 - last), np.int64)),
    ):
        set_tensor(graph, f"{target}.{name}", value)
    one = numpy_helper.from_array(np.ones(1, dtype))
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Shape", [source], "sizes", {}),
        ("Gather", [f"{target}.sizes", f"{target}.axes"], "lengths", {}),
        ("ConstantOfShape", [f"{target}.lengths"], "ones", {"value": one}),
        ("ScatterND", [f"{target}.ones", f"{target}.place", f"{target}.factor"], "map", {}),
    ]
    factors = "map"
    if len(axes) == 1:
        steps.append(("Reshape", [f"{target}.map", f"{target}.shape"], factors := "factors", {}))
    for op, inputs, made, attributes in steps:
        graph.node.append(helper.make_node(op, inputs, [f"{target}.{made}"], f"mutant_{target}_{made}", **attributes))
    graph.node.append(helper.make_node("Mul", [source, f"{target}.{factors}"], [target], f"mutant_{target}"))


def class_axes(shape: Sequence[int | str]) -> list[int]:
    """List the axes that may be classes or channels: the second and the last."""
    return sorted({1, len(shape) - 1}) if len(shape) > 1 else []


def middle(size: int | str) -> int:
    """Give the middle index along an axis; the first where its size is not known."""
    return math.floor(size / 2) if isinstance(size, int) else 0
