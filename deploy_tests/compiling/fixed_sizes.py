"""Fix the sizes of an ONNX file for a compiler that takes numbers only; inside the process that compiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.refusal import Complaint, RefusedError


def fixed(
    ort: Any, model: Path, shapes: Mapping[str, Sequence[int]], who: str
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Fix every input at its usual shape: the shapes, and the size of each name of a dimension.

    Raises:
        RefusedError: a size stays open, or two inputs would give one name two sizes.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    inputs = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]).get_inputs()
    sizes, symbols = dict[str, list[int]](), dict[str, int]()
    for port in inputs:
        wanted = shapes.get(port.name, [])
        sizes[port.name] = []
        for axis, size in enumerate(port.shape):
            if isinstance(size, int):
                sizes[port.name].append(size)
                continue
            number = wanted[axis] if len(wanted) == len(port.shape) else None
            if number is None or not isinstance(size, str) or symbols.setdefault(size, number) != number:
                why = f"dimension {axis} of input {port.name!r} ({size}) is open, and an NPU needs a number"
                raise RefusedError(
                    f"{who} cannot fix the sizes of {model}", "profile", [Complaint("", "", why)], "give --shapes"
                )
            sizes[port.name].append(number)
    return sizes, symbols
