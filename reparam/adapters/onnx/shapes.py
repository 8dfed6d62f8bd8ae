"""Shapes of every value of an ONNX graph: by symbols as far as the file says, and by numbers for an example."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from attn_export.reparam.types import Dim

#: Larger initializers take part in shape inference by their shape alone.
_SMALL = 4096


class Shapes:
    """Shapes twice inferred: with the file's symbols, and with the example's numbers."""

    def __init__(
        self,
        model: ModelProto,
        hints: Mapping[str, tuple[int, ...]],
        known: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self._types: dict[str, int] = {}
        self._shapes: dict[str, tuple[Dim, ...]] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        symbolic = _infer(_light(model, {}, known or {}))
        for info in (*symbolic.input, *symbolic.value_info, *symbolic.output):
            self._take(info)
        concrete = _infer(_light(model, hints, known or {}))
        for info in (*concrete.input, *concrete.value_info, *concrete.output):
            self._size(info)
        for tensor in model.graph.initializer:
            self._types[tensor.name] = tensor.data_type
            self._shapes[tensor.name] = self._sizes[tensor.name] = tuple(tensor.dims)
        for name, shape in self._shapes.items():
            if all(isinstance(n, int) for n in shape):
                self._sizes.setdefault(name, tuple(int(str(n)) for n in shape))

    def _take(self, info: ValueInfoProto) -> None:
        kind = info.type.tensor_type
        self._types[info.name] = kind.elem_type
        if kind.HasField("shape"):
            self._shapes[info.name] = tuple(
                int(d.dim_value) if d.HasField("dim_value") else (str(d.dim_param) or None) for d in kind.shape.dim
            )

    def _size(self, info: ValueInfoProto) -> None:
        kind = info.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            self._sizes[info.name] = tuple(int(d.dim_value) for d in kind.shape.dim)

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """Return the shape with symbols; None if not even the rank is known."""
        return self._shapes.get(name)

    def sizes(self, name: str) -> tuple[int, ...] | None:
        """Return the shape for the example; None if it cannot be inferred."""
        return self._sizes.get(name)

    def dtype(self, name: str) -> int:
        """Return the element type, as ONNX numbers it; 0 if not known."""
        return self._types.get(name, 0)


def _light(
    model: ModelProto, hints: Mapping[str, tuple[int, ...]], constants: Mapping[str, NDArray[Any]]
) -> ModelProto:
    """Copy the model without large weights; with ``hints``, inputs have their numbers and stale symbols are dropped."""
    graph = GraphProto(name="shapes")
    graph.node.extend(node for node in model.graph.node if not any(name in constants for name in node.output))
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    _copy_inputs(model.graph, graph, hints)
    known = {i.name for i in model.graph.input}
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= _SMALL and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims)))
    for info in model.graph.value_info:
        static = all(d.HasField("dim_value") for d in info.type.tensor_type.shape.dim)
        if not hints or static:
            graph.value_info.append(info)
    for info in model.graph.output:
        bare = ValueInfoProto(name=info.name)
        bare.type.tensor_type.elem_type = info.type.tensor_type.elem_type
        graph.output.append(bare if hints else info)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4))


def _copy_inputs(old: GraphProto, new: GraphProto, hints: Mapping[str, tuple[int, ...]]) -> None:
    weights = {t.name for t in old.initializer}
    for info in old.input:
        if info.name in hints and info.name not in weights:
            kind = info.type.tensor_type.elem_type
            new.input.append(helper.make_tensor_value_info(info.name, kind, hints[info.name]))
        else:
            new.input.append(info)


def _infer(model: ModelProto) -> onnx.GraphProto:
    try:
        return shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # inference is help, not a condition: what is unknown stays opaque
        return model.graph
