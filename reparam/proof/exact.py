"""Evaluate an ONNX graph in float64, node by node: the meaning of the graph, whatever runtime it is meant for.

Every floating-point tensor, whatever its declared type, is float64. Convolutions, products and poolings run on
PyTorch's float64 kernels, the rest on the reference implementation of ONNX. A tensor is forgotten after its last use.
With ``np.float32`` the same kernels give one more correct float32 evaluation, to measure how far those stray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_export.errors import ExportError
from attn_export.reparam.proof.kernels import KERNELS, WHOLE

Array = NDArray[Any]
#: Weights of more bytes than this are read again each time.
_LARGE = 1 << 26
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


class Weights(Mapping[str, Array]):
    """Initializers in the precision of an evaluation, read when asked for: all at once may not fit into memory."""

    def __init__(
        self,
        tensors: Iterable[TensorProto],
        widen: Callable[[Array], Array],
        folder: Path | None,
        arrays: Mapping[str, Array],
    ) -> None:
        self._tensors, self._arrays = {t.name: t for t in tensors}, arrays
        self._widen, self._folder = widen, folder
        self._kept: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        """Return one of them; what is not large is kept."""
        if name in self._arrays:
            return self._arrays[name]
        if name not in self._kept:
            array = self._widen(numpy_helper.to_array(self._tensors[name], base_dir=str(self._folder or "")))
            if array.nbytes > _LARGE:
                return array
            self._kept[name] = array
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over names."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._tensors)


class Exact:
    """A graph ready to be evaluated; the model given is not changed.

    External weights lie in ``folder``; ``arrays`` stand in for initializers of their names.

    Raises:
        ExportError: a node cannot be evaluated in this precision.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        dtype: type[np.floating[Any]] = np.float64,
        folder: Path | None = None,
        arrays: Mapping[str, Array] | None = None,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.nodes = list(model.graph.node)
        self.outputs = [value.name for value in model.graph.output]
        self.constants = Weights(model.graph.initializer, self._wide, folder, arrays or {})
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self._runners: dict[int, Callable[[Sequence[Array | None]], list[Array]]] = {}

    def run(self, feeds: Mapping[str, Array], wanted: Iterable[str] | None = None) -> dict[str, Array]:
        """Return the wanted tensors; by default the graph's outputs."""
        return dict(self.visit(feeds, self.outputs if wanted is None else wanted))

    def visit(self, feeds: Mapping[str, Array], wanted: Iterable[str]) -> Iterator[tuple[str, Array]]:
        """Yield the wanted tensors one by one as they are made, evaluating nothing that they do not need."""
        left = set(wanted)
        needed = self._needed(left)
        uses = Counter(name for n in needed for name in set(inputs_of(self.nodes[n])))
        values = {name: self._wide(np.asarray(value)) for name, value in feeds.items()}
        for name in [name for name in left if name in values or name in self.constants]:
            left.discard(name)
            yield name, values[name] if name in values else self.constants[name]
        for index in needed:
            node = self.nodes[index]
            for name, value in zip(node.output, self.step(index, values), strict=False):
                values[name] = value
                if name in left:
                    left.discard(name)
                    yield name, value
                if not uses[name]:
                    del values[name]
            for name in set(inputs_of(node)):
                uses[name] -= 1
                if not uses[name]:
                    values.pop(name, None)

    def step(self, index: int, values: Mapping[str, Array]) -> list[Array]:
        """Evaluate one node on the given values of its inputs; what is missing is taken from the constants."""
        node = self.nodes[index]
        arguments = [
            self._wide(values[n] if n in values else self.constants[n]) if n else None for n in self._arguments(node)
        ]
        try:
            if index not in self._runners:
                self._runners[index] = self._runner(node)
            return self._runners[index](arguments)
        except Exception as error:  # whatever a reference implementation raises
            raise ExportError(f"{node.op_type} {node.name!r} cannot be evaluated in {self.dtype}: {error}") from error

    def _needed(self, wanted: set[str]) -> list[int]:
        live, needed = set(wanted), []
        for index in range(len(self.nodes) - 1, -1, -1):
            if live & set(self.nodes[index].output):
                needed.append(index)
                live |= set(inputs_of(self.nodes[index]))
        return needed[::-1]

    @staticmethod
    def _arguments(node: onnx.NodeProto) -> list[str]:
        """Inputs of the node, then what its sub-graphs read from outside."""
        inner = [name for name in inputs_of(node) if name not in node.input]
        return [*node.input, *inner]

    def _wide(self, array: Array) -> Array:
        kind = array.dtype
        return array.astype(self.dtype) if kind.kind == "f" or kind.name == "bfloat16" else array

    def _runner(self, node: onnx.NodeProto) -> Callable[[Sequence[Array | None]], list[Array]]:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        kernel = KERNELS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        more = any(node.output[1:]) and node.op_type not in WHOLE
        training = attributes.get("training_mode") and node.op_type == "BatchNormalization"
        hangs = node.op_type.endswith("Pool") and attributes.get("ceil_mode")
        if kernel is not None and not hangs and not more and not training:
            return lambda arguments: _all(kernel(attributes, arguments))
        return self._reference(node)

    def _reference(self, node: onnx.NodeProto) -> Callable[[Sequence[Array | None]], list[Array]]:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        self._widen(copy)
        names = self._arguments(node)
        given = dict.fromkeys(name for name in names if name)
        outputs = [name for name in node.output if name]
        graph = helper.make_graph(
            [copy],
            "node",
            [helper.make_value_info(name, onnx.TypeProto()) for name in given],
            [helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
        )
        evaluator = ReferenceEvaluator(graph, opsets=self._opsets)

        def run(arguments: Sequence[Array | None]) -> list[Array]:
            feeds = {name: value for name, value in zip(names, arguments, strict=True) if name}
            if node.op_type == "Resize":  # its scales are float32 by the standard, in every precision
                feeds |= {n: v.astype(np.float32) for n in node.input[1:3] if n and (v := feeds[n]) is not None}
            came = dict(zip(outputs, evaluator.run(None, feeds), strict=True))
            return [self._wide(np.asarray(came[name])) if name else np.empty(0) for name in node.output]

        return run

    def _widen(self, node: onnx.NodeProto) -> None:
        """Let a node that names a floating-point type, or holds floating-point values, speak of ours instead."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in _FLOATS:
                attribute.i = kind
            if attribute.HasField("t"):
                wide = self._wide(numpy_helper.to_array(attribute.t))
                attribute.t.CopyFrom(numpy_helper.from_array(wide, attribute.t.name))
            for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                for inner in graph.node:
                    self._widen(inner)
                for tensor in graph.initializer:
                    wide = self._wide(numpy_helper.to_array(tensor))
                    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _all(came: Array | tuple[Array, ...]) -> list[Array]:
    return list(came) if isinstance(came, tuple) else [came]


def inputs_of(node: onnx.NodeProto) -> list[str]:
    """What a node reads, sub-graphs included; names without values are left out."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            inside = {v.name for v in graph.input} | {t.name for t in graph.initializer}
            inside |= {name for inner in graph.node for name in inner.output}
            names += [name for inner in graph.node for name in inputs_of(inner) if name not in inside]
            names += [v.name for v in graph.output if v.name not in inside]
    return names
