"""Which values of an ONNX graph are constants, and what they are, folded on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_export.reparam.adapters.onnx.nodes import inputs_of, subgraphs
from attn_export.reparam.adapters.onnx.shapes import Shapes

#: Never folded: random numbers, and DequantizeLinear, whose quantised weights are to stay small.
_NEVER = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "DequantizeLinear",
}
_FLOATS = frozenset(
    helper.tensor_dtype_to_np_dtype(kind)
    for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
)
#: Larger results are not folded: they are no weights of an operator.
_MOST_BYTES = 1 << 28


class Constants:
    """Initializers that cannot be overridden, and what is computed from them alone."""

    def __init__(self, model: onnx.ModelProto, opset: int, shapes: Shapes, folder: Path | None) -> None:
        overridable = {i.name for i in model.graph.input}
        self._tensors = {t.name: t for t in model.graph.initializer if t.name not in overridable}
        self._model, self._opset, self._folder = model, opset, folder
        self._cache: dict[str, NDArray[Any] | None] = {}
        self._exact: dict[str, NDArray[Any] | None] = {}
        self._producer: dict[str, NodeProto] = {}
        self._shapes = shapes
        for node in model.graph.node:
            if self._is_constant(node):
                self._producer |= {name: node for name in node.output if name}

    def _is_constant(self, node: NodeProto) -> bool:
        """Whether the outputs of a node follow from constants alone."""
        if node.op_type in _NEVER or subgraphs(node):
            return False
        if node.op_type == "Shape" and node.domain == "":
            return self._is_static(node.input[0])
        if node.op_type == "CastLike":  # the second operand gives its type only
            return self.known(node.input[0]) and self._shapes.dtype(node.input[1]) != 0
        return node.domain in ("", "ai.onnx") and all(not n or self.known(n) for n in node.input)

    def _is_static(self, name: str) -> bool:
        shape = self._shapes.shape(name)
        return shape is not None and all(isinstance(n, int) for n in shape)

    def computed_sizes(self) -> dict[str, NDArray[Any]]:
        """Find sizes (and scales of Resize) that operators read and that other operators compute from constants."""
        found: dict[str, NDArray[Any]] = {}
        for node in self._model.graph.node:
            if node.output[0] in self._producer:
                continue
            for name in node.input:
                producer = self._producer.get(name)
                if producer is None or producer.op_type == "Constant" or name in found:
                    continue
                array = self.get(name)
                sizes = array is not None and (array.dtype == np.int64 or node.op_type == "Resize")
                if array is not None and sizes and array.size <= 64:
                    found[name] = array
        return found

    def known(self, name: str) -> bool:
        """Whether the value is a constant."""
        return name in self._tensors or name in self._producer

    def get(self, name: str) -> NDArray[Any] | None:
        """Return the constant in its own type; None if it is none, or cannot be folded."""
        return self._get(name, self._cache, exact=False)

    def exact(self, name: str) -> NDArray[Any] | None:
        """Return the constant computed in float64, as whoever evaluates the graph in float64 computes it."""
        array = self._get(name, self._exact, exact=True)
        return self.get(name) if array is None else array

    def _get(self, name: str, cache: dict[str, NDArray[Any] | None], *, exact: bool) -> NDArray[Any] | None:
        if name in self._tensors:  # not kept: whoever needs them again reads them again
            array = numpy_helper.to_array(self._tensors[name], base_dir=str(self._folder or ""))
            return _wide(array) if exact else array
        left = [name]
        while left:  # what it is computed from comes first, by a list of our own: a chain may be long
            last = left[-1]
            before = [n for n in self._reads(last) if n not in cache and n not in self._tensors]
            if last in cache or not before:
                left.pop()
                if last not in cache:
                    cache[last] = self._compute(last, cache, exact=exact)
            else:
                left += before
        return cache[name]

    def _reads(self, name: str) -> list[str]:
        """List what the node that makes a constant needs the values of."""
        node = self._producer.get(name)
        if node is None or node.op_type == "Shape":
            return []
        return [n for n in (node.input[:1] if node.op_type == "CastLike" else node.input) if n]

    def _compute(self, name: str, cache: dict[str, NDArray[Any] | None], *, exact: bool) -> NDArray[Any] | None:
        if name not in self._producer:
            return None
        node = self._producer[name]
        if node.op_type == "Shape":
            shape = self._shapes.shape(node.input[0])
            assert shape is not None
            at = {a.name: a.i for a in node.attribute}
            return np.array(shape[at.get("start", 0) : at.get("end", len(shape))], dtype=np.int64)
        if node.op_type == "CastLike":
            array = self._get(node.input[0], cache, exact=exact)
            kind = helper.tensor_dtype_to_np_dtype(self._shapes.dtype(node.input[1]))
            return None if array is None else _wide(array.astype(kind)) if exact else array.astype(kind)
        feeds = {n: self._get(n, cache, exact=exact) for n in node.input if n}
        if any(a is None or a.nbytes > _MOST_BYTES for a in feeds.values()):
            return None
        inputs = [helper.make_tensor_value_info(n, 0, None) for n in feeds]
        outputs = [helper.make_tensor_value_info(n, 0, None) for n in node.output]
        graph = helper.make_graph([_widened(node) if exact else node], "constant", inputs, outputs)
        small = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)])
        try:
            results = ReferenceEvaluator(small).run(None, feeds)
        except Exception:  # whatever the reference cannot run is left as it is
            return None
        made = [
            _wide(np.asarray(one)) if exact and isinstance(one, np.ndarray | np.generic) else one for one in results
        ]
        cache |= dict(zip(node.output, made, strict=True))
        return np.asarray(cache[name])


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype in _FLOATS else array


def _widened(node: NodeProto) -> NodeProto:
    """Let a cast to a narrower floating type cast to float64."""
    if node.op_type != "Cast":
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if attribute.name == "to" and helper.tensor_dtype_to_np_dtype(attribute.i) in _FLOATS:
            attribute.i = onnx.TensorProto.DOUBLE
    return copy


def alive(graph: onnx.GraphProto, constants: Constants) -> frozenset[int]:
    """Return the nodes that compute something: no constants, nor what is read for its shape alone."""
    wanted = {o.name for o in graph.output}
    living: set[int] = set()
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if wanted.isdisjoint(node.output) or all(constants.known(name) for name in node.output if name):
            continue
        living.add(index)
        wanted |= set(inputs_of(node))
    return frozenset(living)


def settle(
    model: onnx.ModelProto, opset: int, hints: Mapping[str, tuple[int, ...]], folder: Path | None
) -> tuple[Shapes, Constants]:
    """Infer shapes and constants, each from the other until neither learns any more.

    Shape inference does not fold: it is told the pads and shapes that are computed from constants. What it makes of
    them may be what the next ones are computed from, as in the index grids that TorchScript writes.
    """
    told: dict[str, NDArray[Any]] = {}
    shapes = Shapes(model, hints)
    while True:
        constants = Constants(model, opset, shapes, folder)
        sizes = constants.computed_sizes()
        if sizes.keys() <= told.keys():
            return shapes, constants
        told |= sizes
        shapes = Shapes(model, hints, told)
