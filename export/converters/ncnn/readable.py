"""Write operators as pnnx reads them: the same sums in another form, for it loses some of what it is given.

Of axes that are an input it keeps none where there is one, and has no layer for a largest value at all; axes that are
an attribute, as up to opset 17, it reads. Sums have no such form, and are written as means. A largest value over
several axes is taken over one after the other. The logarithm of a softmax it takes of a softmax that may be zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from attn_export.types import Array, TensorSpec

#: The last opset in which axes are an attribute of all reductions but the sum.
READ = 17
#: Reductions whose axes are an attribute there.
_BY_ATTRIBUTE = frozenset(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)
#: Reductions that may be taken over one axis after the other.
_ONE_BY_ONE = frozenset(("ReduceMax", "ReduceMin"))
#: Operators of later opsets that are written anew, or that the checker can tell from those of opset 17.
_KNOWN = _BY_ATTRIBUTE | {"ReduceSum", "Split", "Pad", "Resize"}


def readable(model: onnx.ModelProto, inputs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> onnx.ModelProto:
    """Give a model that computes the same for inputs of these sizes; itself where there is nothing to write anew.

    It is left as it is, too, where an operator means something else in the opset that pnnx reads.
    """
    if not any(
        node.op_type in _BY_ATTRIBUTE or node.op_type in ("ReduceSum", "LogSoftmax") for node in model.graph.node
    ):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _fix(made, inputs, sizes)
    try:
        anew = _Anew(made)
        anew.lower()
        nodes = [one for node in made.graph.node for one in anew.written(node)]
        del made.graph.node[:]
        made.graph.node.extend(nodes)
        made.graph.initializer.extend(anew.constants)
        onnx.checker.check_model(made)
    except (_UnknownError, onnx.checker.ValidationError):
        return model
    return made


class _UnknownError(Exception):
    """A size or an axis is not known, or an operator is none of the opset."""


def _fix(model: onnx.ModelProto, inputs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> None:
    """Write the sizes of inputs into the graph, and forget what was known of inner shapes."""
    shapes = {port.name: [sizes.get(str(size), size) for size in port.shape] for port in inputs}
    for value in model.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            if isinstance(size, int):
                axis.dim_value = size
    del model.graph.value_info[:]


class _Anew:
    """Writes nodes of one model anew.

    Attributes:
        constants: what the new nodes need.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants: list[TensorProto] = []
        self._known = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
        self._types = {one.name: one.type.tensor_type for one in (*graph.input, *graph.value_info, *graph.output)}

    def lower(self) -> None:
        """Call the model one of the opset that pnnx reads.

        Raises:
            _UnknownError: an operator means something else there.
        """
        own = next(one for one in self.model.opset_import if one.domain in ("", "ai.onnx"))
        if own.version <= READ:
            return
        for node in self.model.graph.node:
            since = onnx.defs.get_schema(node.op_type, own.version, node.domain).since_version
            if since > READ and node.op_type not in _KNOWN and node.domain in ("", "ai.onnx"):
                raise _UnknownError(node.op_type)
        own.version = READ

    def written(self, node: NodeProto) -> list[NodeProto]:
        """Give the nodes that compute what ``node`` does.

        Raises:
            _UnknownError: its axes or sizes are not known.
        """
        if node.op_type == "Split":
            return [self._split(node)]
        if node.op_type == "LogSoftmax":
            return self._log_softmax(node)
        if node.op_type == "ReduceSum":
            return self._sum(node)
        return self._reduction(node) if node.op_type in _BY_ATTRIBUTE else [node]

    def _split(self, node: NodeProto) -> NodeProto:
        """Name the sizes of equal parts, whose count was no attribute yet."""
        if _attribute(node, "num_outputs", 0):
            sizes = [self._shape(name)[_attribute(node, "axis", 0)] for name in node.output]
            _drop(node, "num_outputs")
            node.input.append(self._constant(f"{node.output[0]}_sizes", np.array(sizes, np.int64)))
        return node

    def _reduction(self, node: NodeProto) -> list[NodeProto]:
        axes = self._axes(node)
        if axes is None:
            return [node]
        return _reduced(node.op_type, node.input[0], node.output[0], node.name, axes, _attribute(node, "keepdims", 1))

    def _sum(self, node: NodeProto) -> list[NodeProto]:
        """Write a sum over one axis as a mean times its size; over several axes pnnx reads them."""
        axes = self._axes(node)
        if axes is None or len(axes) != 1 or self._types[node.input[0]].elem_type != TensorProto.FLOAT:
            return [node]
        name, mean = node.output[0], f"{node.output[0]}_mean"
        size = self._constant(f"{name}_size", np.array(self._shape(node.input[0])[axes[0]], np.float32))
        keep = _attribute(node, "keepdims", 1)
        return [
            *_reduced("ReduceMean", node.input[0], mean, node.name, axes, keep),
            helper.make_node("Mul", [mean, size], [name], f"{node.name}_of_mean"),
        ]

    def _log_softmax(self, node: NodeProto) -> list[NodeProto]:
        """Take the logarithm of the sum, which is at least one, instead of that of the parts."""
        given, name, axes = node.input[0], node.output[0], (_attribute(node, "axis", -1),)
        size = self._constant(f"{name}_size", np.array(self._shape(given)[axes[0]], np.float32))
        most, less, powers, mean, total, log = (
            f"{name}_{part}" for part in ("most", "less", "exp", "mean", "sum", "log")
        )
        return [
            *_reduced("ReduceMax", given, most, f"{node.name}_most", axes, 1),
            helper.make_node("Sub", [given, most], [less]),
            helper.make_node("Exp", [less], [powers]),
            *_reduced("ReduceMean", powers, mean, f"{node.name}_mean", axes, 1),
            helper.make_node("Mul", [mean, size], [total]),
            helper.make_node("Log", [total], [log]),
            helper.make_node("Sub", [less, log], [name]),
        ]

    def _axes(self, node: NodeProto) -> tuple[int, ...] | None:
        """Give the axes that are an input; None where there is none."""
        if len(node.input) < 2 or not node.input[1]:
            _drop(node, "noop_with_empty_axes")
            return None
        if node.input[1] not in self._known:
            raise _UnknownError(node.name)
        return tuple(int(axis) for axis in self._known[node.input[1]].ravel())

    def _shape(self, name: str) -> list[int]:
        found = self._types.get(name)
        if found is None or not all(axis.dim_value for axis in found.shape.dim):
            raise _UnknownError(name)
        return [axis.dim_value for axis in found.shape.dim]

    def _constant(self, name: str, value: Array) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _reduced(kind: str, given: str, name: str, node: str, axes: tuple[int, ...], keep: int) -> list[NodeProto]:
    """Reduce over axes that are an attribute, one after the other where that is the same."""
    if kind not in _ONE_BY_ONE or len(axes) == 1 or (not keep and min(axes) < 0 <= max(axes)):
        return [helper.make_node(kind, [given], [name], node, axes=list(axes), keepdims=keep)]
    # Without the axes that are gone, those before them keep their number; those counted from the end, the other way.
    order = sorted(axes, reverse=axes[0] >= 0)
    steps = [given, *(f"{name}_over_{count}" for count in range(1, len(order))), name]
    return [
        helper.make_node(kind, [before], [after], f"{node}_{axis}", axes=[axis], keepdims=keep)
        for axis, before, after in zip(order, steps, steps[1:], strict=False)
    ]


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((one.i for one in node.attribute if one.name == name), default)


def _drop(node: NodeProto, name: str) -> None:
    for one in [one for one in node.attribute if one.name == name]:
        node.attribute.remove(one)
