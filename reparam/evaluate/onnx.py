"""Evaluate an ONNX graph in float64, node by node: the meaning of the graph, whatever runtime it is meant for.

Every tensor of type float16, bfloat16, float32 or float64 is float64, and nothing is rounded to a narrower one: a cast
between them only overflows where its type does. What is not a matter of precision stays what it is: whole numbers,
booleans, strings, and the codes of quantised numbers (float8, float4, int4, ...), which are rounded as their type has
it. A sequence is a list of arrays, an optional value that is absent is None.

The operators that matter run on our own kernels (PyTorch's in float64, or NumPy), the rest on the reference
implementation of ONNX; an operator that is not claimed is refused by name (``claims``); ``docs/operators.md`` lists
them. A tensor is forgotten after its last use. With ``np.float32`` the same kernels give one more correct float32
evaluation, to measure how far those stray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_export.errors import ExportError
from attn_export.reparam.adapters.onnx.nodes import captured, inputs_of, subgraphs
from attn_export.reparam.evaluate import claims, control, functions, transcendental
from attn_export.reparam.evaluate.kernels import recurrent
from attn_export.reparam.evaluate.kernels.table import kernel_of
from attn_export.types import Array

#: What a node makes of its inputs; a value is an array, a list of arrays (a sequence) or None (absent).
Runner = Callable[[Sequence[Any]], Sequence[Any]]
#: Bytes of weights that an evaluation keeps between two runs, unless it is told another number: others are read again.
KEPT = 1 << 27
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_WIDENED = frozenset(helper.tensor_dtype_to_np_dtype(kind) for kind in _FLOATS)
#: Attributes that name a type of element.
_TYPES = ("to", "dtype", "stash_type", "output_datatype", "softmax_precision")


class Weights(Mapping[str, Array]):
    """Initializers in the precision of an evaluation, read when asked for: all at once may not fit into memory."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        widen: Callable[[Array], Array],
        folder: Path | None,
        arrays: Mapping[str, Array],
        kept: int,
    ) -> None:
        self._spare = kept
        self._tensors, self._arrays = {t.name: t for t in graph.initializer}, arrays
        self._sparse = {t.values.name: t for t in graph.sparse_initializer}
        self._widen, self._folder = widen, folder
        self._cache: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        """Return one of them; what there is room for is kept."""
        if name in self._arrays:
            return self._arrays[name]
        if name not in self._cache:
            array: Array = _writable(self._widen(self._read(name)))
            if array.nbytes > self._spare:
                return array
            self._spare -= array.nbytes
            self._cache[name] = array
        return self._cache[name]

    def _read(self, name: str) -> Array:
        if name in self._sparse:
            return dense(self._sparse[name])
        return numpy_helper.to_array(self._tensors[name], base_dir=str(self._folder or ""))

    def __contains__(self, name: object) -> bool:
        """Whether there is one of that name; reads nothing."""
        return name in self._tensors or name in self._sparse or name in self._arrays

    def __iter__(self) -> Iterator[str]:
        """Iterate over names."""
        return iter((*self._tensors, *self._sparse))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._tensors) + len(self._sparse)


class OnnxEvaluator:
    """A graph ready to be evaluated; the model given is not changed.

    External weights lie in ``folder``; ``arrays`` stand in for initializers of their names; ``local`` are functions
    beside the model's own. With ``coarse``, functions such as sigmoid are as exact as runtimes have them. ``kept`` is
    how many bytes of weights stay in memory once they were read.

    Raises:
        ExportError: a node cannot be evaluated in this precision.
        RefusedOperatorError: its operator is not claimed.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        dtype: type[np.floating[Any]] = np.float64,
        folder: Path | None = None,
        arrays: Mapping[str, Array] | None = None,
        local: functions.Functions | None = None,
        *,
        coarse: transcendental.Way | None = None,
        kept: int = KEPT,
    ) -> None:
        self.dtype, self._folder = np.dtype(dtype), folder
        self._coarse, self._signs = coarse, transcendental.Signs(coarse or "up")
        self.nodes = list(model.graph.node)
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.constants = Weights(model.graph, self._wide, folder, arrays or {}, kept)
        self._functions = {**(local or {}), **functions.of(model)}
        self._opsets = {claims.domain(entry.domain): entry.version for entry in model.opset_import}
        self._runners: dict[int, Runner] = {}
        self._plans: dict[frozenset[str], tuple[list[int], Counter[str]]] = {}

    def run(self, feeds: Mapping[str, Array], wanted: Iterable[str] | None = None) -> dict[str, Array]:
        """Return the wanted tensors; by default the graph's outputs."""
        return dict(self.visit(feeds, self.outputs if wanted is None else wanted))

    def visit(self, feeds: Mapping[str, Array], wanted: Iterable[str]) -> Iterator[tuple[str, Array]]:
        """Yield the wanted tensors one by one as they are made, evaluating nothing that they do not need.

        What is yielded lies apart from what was fed, in memory that can be written to.
        """
        return self._walk({name: _apart(self._wide(value), value) for name, value in feeds.items()}, wanted)

    def inside(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate the graph's outputs as part of an evaluation around it, whose values need no copies."""
        return dict(self._walk({name: self._wide(value) for name, value in values.items()}, self.outputs))

    def _walk(self, values: dict[str, Any], wanted: Iterable[str]) -> Iterator[tuple[str, Array]]:
        left = set(wanted)
        needed, uses = self._plan(frozenset(left))
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
        arguments = [self._argument(node, name, values) if name else None for name in self._arguments(node)]
        try:
            with np.errstate(all="ignore"):  # a division by zero means infinity, as in every runtime
                if index not in self._runners:
                    self._runners[index] = self._runner(node)
                results = list(self._runners[index](arguments))
        except claims.UnclaimedOperator as refusal:
            raise claims.refused(node, self._opset(node), refusal, str(self.dtype)) from refusal
        except ExportError:
            raise  # of a node inside this one
        except Exception as error:  # whatever a reference implementation raises
            raise ExportError(f"{node.op_type} {node.name!r} cannot be evaluated in {self.dtype}: {error}") from error
        if any(node.output[len(results) :]):
            have, more = len(results), list(node.output[len(results) :])
            raise ExportError(f"{node.op_type} {node.name!r} has {have} outputs; the node asks for {more} as well")
        if self._coarse is not None:
            results = transcendental.stray_node(node, self._opset(node), results, arguments, self._signs)
        return results[: len(node.output)]

    def _argument(self, node: onnx.NodeProto, name: str, values: Mapping[str, Array]) -> Any:
        if name in values:
            return self._wide(values[name])
        if name in self.constants:
            return self.constants[name]
        raise ExportError(
            f"{node.op_type} {node.name!r} reads {name!r}, expected to be an input, an initializer or made by a node "
            "before it, but it is none; feed it, or sort the nodes"
        )

    def _plan(self, wanted: frozenset[str]) -> tuple[list[int], Counter[str]]:
        """Which nodes the wanted tensors need, in order, and how many of them read each name."""
        if wanted not in self._plans:
            needed = self._needed(set(wanted))
            self._plans[wanted] = needed, Counter(n for i in needed for n in set(inputs_of(self.nodes[i])))
        needed, uses = self._plans[wanted]
        return needed, uses.copy()

    def _needed(self, wanted: set[str]) -> list[int]:
        live, needed = set(wanted), []
        for index in range(len(self.nodes) - 1, -1, -1):
            if live & set(self.nodes[index].output):
                needed.append(index)
                live |= set(inputs_of(self.nodes[index]))
        return needed[::-1]

    @staticmethod
    def _arguments(node: onnx.NodeProto) -> list[str]:
        """List the inputs of the node, then what its sub-graphs read from outside."""
        inner = [name for name in captured(node) if name not in node.input]
        return [*node.input, *inner]

    def _wide(self, value: Any) -> Any:
        """Convert a value to our precision if it is of a floating-point type, or a list of such."""
        if value is None:
            return None
        if isinstance(value, list):
            return [self._wide(item) for item in value]
        array = np.asarray(value)
        return array.astype(self.dtype, copy=False) if array.dtype in _WIDENED else array

    def _runner(self, node: onnx.NodeProto) -> Runner:
        if (called := functions.called(self._functions, node)) is not None:
            return control.call(self._inside(functions.body(called, node), called.opset_import), called)
        opset = self._opset(node)
        claims.check(node, opset)
        domain = claims.domain(node.domain)
        if not domain and node.op_type in functions.DEFINED:
            return lambda arguments: self._defined(node, arguments)
        attributes = {a.name: self._attribute(a) for a in node.attribute}
        if not domain and node.op_type in control.CONTROL:
            inner = control.CONTROL[node.op_type](attributes, self._captured(node), opset)
            return lambda arguments: [self._wide(value) for value in inner(arguments)]
        kernel = None if domain else kernel_of(node, attributes, opset)
        if kernel is None:
            return self._reference(node)
        if self._coarse is not None and node.op_type in recurrent.LAYERS:
            kernel = partial(
                recurrent.LAYERS[node.op_type], change=partial(transcendental.stray_activation, self._signs)
            )

        def run(arguments: Sequence[Any]) -> Sequence[Any]:
            results = kernel(attributes, arguments)
            if results is NotImplemented:  # not with arguments of these types
                return self._reference(node)(arguments)
            return [self._wide(value) for value in (results if isinstance(results, tuple) else (results,))]

        return run

    def _defined(self, node: onnx.NodeProto, arguments: Sequence[Any]) -> Sequence[Any]:
        shapes = [None if value is None else value.shape for value in arguments]
        defined = functions.defined(node, self._opset(node), shapes)
        return control.call(self._inside(functions.body(defined, node), defined.opset_import), defined)(arguments)

    def _opset(self, node: onnx.NodeProto) -> int:
        opset: int = self._opsets.get(claims.domain(node.domain), 0)
        return opset

    def _attribute(self, attribute: onnx.AttributeProto) -> Any:
        """Its value; a tensor as an array in our precision, a graph as a function of its inputs."""
        if attribute.type == onnx.AttributeProto.TENSOR:
            return self._wide(numpy_helper.to_array(attribute.t, base_dir=str(self._folder or "")))
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            return self._wide(dense(attribute.sparse_tensor))
        if attribute.type == onnx.AttributeProto.GRAPH:
            opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
            return control.Body(attribute.g, self._inside(attribute.g, opsets))
        return helper.get_attribute_value(attribute)

    def _captured(self, node: onnx.NodeProto) -> list[str]:
        return self._arguments(node)[len(node.input) :]

    def _inside(self, graph: onnx.GraphProto, opsets: Iterable[onnx.OperatorSetIdProto]) -> OnnxEvaluator:
        """Make an evaluation of a graph inside this one, which knows the same functions."""
        model = helper.make_model(graph, opset_imports=list(opsets))
        return OnnxEvaluator(model, self.dtype.type, self._folder, local=self._functions, coarse=self._coarse)

    def _reference(self, node: onnx.NodeProto) -> Runner:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        self._widen(copy)
        given = dict.fromkeys(name for name in node.input if name)
        outputs = [name for name in node.output if name]
        graph = helper.make_graph(
            [copy],
            "node",
            [helper.make_value_info(name, onnx.TypeProto()) for name in given],
            [helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
        )
        evaluator = ReferenceEvaluator(graph, opsets=self._opsets)

        def run(arguments: Sequence[Any]) -> Sequence[Any]:
            feeds = {name: kept_from_writing(value) for name, value in zip(node.input, arguments, strict=True) if name}
            results = dict(zip(outputs, evaluator.run(None, feeds), strict=True))
            return [_writable(self._wide(results[name])) if name else None for name in node.output]

        return run

    def _widen(self, node: onnx.NodeProto) -> None:
        """Let a node that names a floating-point type, or holds floating-point values, speak of ours instead."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        node.attribute.extend(claims.defaults(node, self._opset(node), _TYPES))
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.i in _FLOATS:
                attribute.i = kind
            if attribute.HasField("t"):
                attribute.t.CopyFrom(numpy_helper.from_array(self._attribute(attribute), attribute.t.name))
        for graph in subgraphs(node):
            for inner in graph.node:
                self._widen(inner)
            for tensor in graph.initializer:
                wide = self._wide(numpy_helper.to_array(tensor, base_dir=str(self._folder or "")))
                tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _apart(value: Any, given: Any) -> Any:
    """Copy a value, unless it is a copy already."""
    if isinstance(value, list):
        return [_apart(one, other) for one, other in zip(value, given, strict=True)]
    return value.copy() if value is not None and np.may_share_memory(value, given) else value


def _writable(value: Any) -> Any:
    """Undo what ``kept_from_writing`` did to what a value is a view of."""
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        try:
            value.flags.writeable = True
        except ValueError:  # it is not ours
            return value.copy()
    return value


def kept_from_writing(value: Any) -> Any:
    """Return a view that cannot be written to: an implementation that works in place would change what others read."""
    if not isinstance(value, np.ndarray):
        return value
    view = value.view()
    view.flags.writeable = False
    return view


def dense(tensor: onnx.SparseTensorProto) -> Array:
    """Fill a sparse tensor with its zeros; its indices are flat or one for each axis.

    >>> dense(helper.make_sparse_tensor(numpy_helper.from_array(np.float32([5]), "v"),
    ...       numpy_helper.from_array(np.array([2]), "i"), [2, 2]))
    array([[0., 0.],
           [5., 0.]], dtype=float32)
    """
    values, indices = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    full = np.zeros(tuple(tensor.dims), values.dtype)
    where = np.unravel_index(indices, full.shape) if indices.ndim == 1 else tuple(indices.T)
    full[where] = values
    return full
