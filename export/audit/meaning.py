"""What a node means, whatever way it is written: its attributes and the constants it reads as attributes, by name.

    Slice(x, [1], [9223372036854775807])              ─►  starts [1], ends [8], axes [0]
    Slice(x, [1], [8], [0], [1])                      ─►  starts [1], ends [8], axes [0]
    GRU(x, w, r, "", "", zeros)                       ─►  direction forward, linear_before_reset 0
    GRU(x, w, r, direction="forward")                 ─►  direction forward, linear_before_reset 0

Defaults are filled in from the operator's schema, optional inputs that equal their default are left out, axes count
from the front, automatic padding is worked out where the sizes are known, and axes, pads and the like have one name
whether the operator set takes them as an attribute or as an input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from attn_export.export.audit.defaults import constant, is_default
from attn_export.export.graph.index import FLOATING, STANDARD, GraphIndex

#: In place of a value: an input that is computed, or a weight, for which the audit of constants answers.
GIVEN = "an input"
#: Written out by some stages and left to inference by others, or without an effect on the outputs of an inference.
_SILENT = {
    "": {"kernel_shape", "allowzero", "stash_type", "hidden_size", "num_outputs", "auto_pad"},
    "BatchNormalization": {"momentum", "spatial"},
    "Dropout": {"ratio", "seed"},
    "Cast": {"saturate", "round_mode"},
}
#: Shapes may be written in several ways that mean the same.
_FREE = {"Reshape", "Expand", "Resize", "Upsample"}
#: A list that is not written is one of these numbers.
_REPEATED = {"pads": 0, "strides": 1, "dilations": 1, "output_padding": 0, "steps": 1}
_VARIADIC = defs.OpSchema.FormalParameterOption.Variadic
_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv")
_ACTIVATIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


def meaning(index: GraphIndex, node: onnx.NodeProto) -> dict[str, Any]:
    """Give what the node's outputs depend on besides its computed inputs and its weights, in one form.

    Inputs that may be left out are there too: as ``GIVEN`` where they are no small constants.
    """
    silent = _SILENT[""] | _SILENT.get(node.op_type, set())
    values = {name: value for name, value in _attributes(index, node).items() if name not in silent}
    values |= {name: value for name, value in _inputs(index, node) if name not in silent}
    shape = index.shape(node.input[0]) if node.input else None
    _count_from_the_front(values, index, node)
    _fill(values, node, shape)
    if node.op_type == "Slice":
        _clamp(values, shape)
    return {
        name: value for name, value in values.items() if not (name in _REPEATED and _is_all(value, _REPEATED[name]))
    }


@cache
def _schema(op: str, opset: int, domain: str) -> defs.OpSchema | None:
    try:
        return defs.get_schema(op, opset, domain)
    except defs.SchemaError:
        return None


def _schema_of(index: GraphIndex, node: onnx.NodeProto) -> defs.OpSchema | None:
    domain = "" if node.domain in STANDARD else node.domain
    opset = index.opset if not domain else next((o.version for o in index.model.opset_import if o.domain == domain), 1)
    return _schema(node.op_type, opset, domain)


def _attributes(index: GraphIndex, node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes by name, defaults included, in a form that can be compared."""
    schema, values = _schema_of(index, node), dict[str, Any]()
    for name, item in schema.attributes.items() if schema else ():
        if item.default_value.name:
            values[name] = _plain(helper.get_attribute_value(item.default_value))
    for attribute in node.attribute:
        if attribute.type not in (attribute.GRAPH, attribute.GRAPHS):
            values[attribute.name] = _plain(helper.get_attribute_value(attribute))
    return values


def input_names(index: GraphIndex, node: onnx.NodeProto) -> dict[str, str]:
    """Name the tensors of the inputs that are there, by what the schema calls those; ``input 2`` where it does not."""
    schema = _schema_of(index, node)
    called = [item.name for item in schema.inputs if item.option != _VARIADIC] if schema else []
    called += [f"input {position}" for position in range(len(called), len(node.input))]  # as many as there are
    return {name: tensor for name, tensor in zip(called, node.input, strict=False) if tensor}


def _inputs(index: GraphIndex, node: onnx.NodeProto) -> Iterator[tuple[str, Any]]:
    """Give the inputs: a small constant by value, anything else as given, and what equals its default not at all."""
    names = input_names(index, node)
    if any(called.startswith("input ") for called in names):
        yield "number of inputs", len(node.input)
    for called, name in names.items():
        if is_default(index, node, called, name):
            continue
        value = None if node.op_type in _FREE or _is_weight(index, name) else constant(index, name)
        if value is not None and (value.size == 1 or value.dtype.kind in "iub"):
            yield called, _plain(value)
        elif not called.startswith("input "):  # where any number may come, only that number counts
            yield called, GIVEN


def _is_weight(index: GraphIndex, name: str) -> bool:
    """Whether a tensor is a constant of many numbers that round: to look at it would copy it."""
    tensor = index.tensors.get(name)
    return tensor is not None and tensor.data_type in FLOATING and math.prod(tensor.dims) != 1


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    if isinstance(value, np.ndarray):
        return value.ravel().tolist() if value.size < 64 else value.tobytes()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _count_from_the_front(values: dict[str, Any], index: GraphIndex, node: onnx.NodeProto) -> None:
    """Give every axis from the front, and all of them where an operator takes all by default."""
    made = node.op_type in ("Unsqueeze", "OneHot")
    rank = index.rank(node.output[0] if made else node.input[0]) if node.input else -1
    if rank <= 0:
        return
    for name in ("axis", "axes"):
        if isinstance(axis := values.get(name), int):
            values[name] = axis + rank * (axis < 0)  # a Flatten may have the rank itself
        elif isinstance(axis, list):
            values[name] = [one + rank * (one < 0) for one in axis]
    if node.op_type.startswith("Reduce"):
        whole = not values.pop("noop_with_empty_axes", 0)
        if values.get("axes") in (None, []) and whole:
            values["axes"] = list(range(rank))
        if isinstance(values.get("axes"), list):
            values["axes"] = sorted(values["axes"])


def _fill(values: dict[str, Any], node: onnx.NodeProto, shape: Any) -> None:
    """Fill in what the schema does not say: padding worked out, activations, equal parts."""
    if node.op_type in _WINDOWED:
        _pad(values, node, shape)
    if node.op_type in _ACTIVATIONS:
        ways = 2 if values.get("direction") == "bidirectional" else 1
        named = values.get("activations") or _ACTIVATIONS[node.op_type] * ways
        values["activations"] = [name.lower() for name in named]
    if node.op_type == "Split" and (sizes := values.get("split")) and sizes != GIVEN and len(set(sizes)) == 1:
        del values["split"]
    if node.op_type == "Gemm" and "C" not in values:
        values.pop("beta", None)
    if node.op_type == "MaxPool" and len(node.output) < 2:
        values.pop("storage_order", None)
    if node.op_type == "ConstantOfShape":
        values.setdefault("value", [0.0])


def _pad(values: dict[str, Any], node: onnx.NodeProto, shape: Any) -> None:
    """Work out automatic padding; where a size is not known it stays as it is written."""
    written = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    how = written.get("auto_pad", b"NOTSET").decode(errors="replace")
    if how in ("NOTSET", "VALID"):
        return
    window, sizes = written.get("kernel_shape"), list(shape or ())[2:]
    if node.op_type == "ConvTranspose" or not window or not all(isinstance(size, int) for size in sizes):
        values["auto_pad"] = how
        return
    ones = [1] * len(window)
    strides, dilations = written.get("strides", ones), written.get("dilations", ones)
    rows = list(zip(sizes, window, strides, dilations, strict=False))
    total = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in rows]
    less, more = [one // 2 for one in total], [one - one // 2 for one in total]
    values["pads"] = [*more, *less] if how == "SAME_LOWER" else [*less, *more]


def _clamp(values: dict[str, Any], shape: Any) -> None:
    """Give where a slice starts and ends along each axis, where its size is known."""
    starts, ends = values.get("starts"), values.get("ends")
    if not isinstance(starts, list) or not isinstance(ends, list):
        return
    axes = values.setdefault("axes", list(range(len(starts))))
    steps = values.setdefault("steps", [1] * len(starts))
    if not isinstance(axes, list) or not isinstance(steps, list) or len(axes) != len(starts):
        return
    for place, axis in enumerate(axes):
        if shape is not None and isinstance(size := shape[axis], int) and steps[place] > 0:
            starts[place], ends[place], _ = slice(starts[place], ends[place]).indices(size)
        elif ends[place] >= np.iinfo(np.int32).max:
            ends[place] = np.iinfo(np.int64).max  # to the end, as both are written


def _is_all(value: Any, one: int) -> bool:
    return isinstance(value, list) and all(item == one for item in value)
