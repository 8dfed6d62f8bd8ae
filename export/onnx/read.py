"""The one place where ONNX files are read: looked at before they are opened, parsed, checked, and only then believed.

What is meant the same and written otherwise is brought into one form: nodes in an order in which they can be run,
sparse constants as dense ones, a negative size as an open one, small outside weights in the file. What cannot be meant
is refused in one sentence, so that no stage after this one meets it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, SparseTensorProto, TensorProto, numpy_helper

from attn_export.errors import SubjectError
from attn_export.export.graph.light import skeleton
from attn_export.export.onnx import external_data, order, soundness, withdrawn
from attn_export.export.onnx.walk import graphs
from attn_export.untrusted import files
from attn_export.untrusted.text import first_line, one_line

#: A protobuf message holds less than 2 GB; weights beyond that lie in a file beside it.
MOST = 2 * files.GB - 1
#: Bytes of a sparse constant written out.
_DENSE = files.GB
#: From this version of the format on, constants need not be listed among the inputs.
_NOT_LISTED = 4


def read_model(path: Path, *, weights: bool = True) -> ModelProto:
    """Read an ONNX file.

    Args:
        path: of the file; weights outside of it lie in its folder.
        weights: whether large outside weights are read too, or stay where they are until they are asked for.

    Raises:
        SubjectError: it is no regular file, no ONNX file, no valid one, or one whose weights are not where it says.
    """
    model = parse(path)
    try:
        soundness.check(model)
        for graph in graphs(model):
            _close(graph)
            _densify(graph)
            _latest(graph)
        external_data.settle(model, path.parent)
        order.sort(model)
        light = skeleton(model)
        _valid(light)
        soundness.check_shapes(model, light)
        if weights:
            external_data.load(model, path.parent)
    except SubjectError as error:
        raise SubjectError(f"{path} is not a valid ONNX file: {error}") from error
    return model


def parse(path: Path) -> ModelProto:
    """Parse the message of an ONNX file as it is, believed in nothing.

    Raises:
        SubjectError: it is no regular file, or no ONNX file.
    """
    content = files.read(path, MOST, SubjectError)
    model = ModelProto()
    wanted = "expected an ONNX file (a protobuf message of the kind ModelProto)"
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's errors share no public base
        reason = one_line(str(error))[:200]
        raise SubjectError(f"{path} is not an ONNX file: {wanted}, got what cannot be parsed ({reason})") from error
    if not model.HasField("graph") or not model.ir_version:
        raise SubjectError(f"{path} is not an ONNX file: {wanted}, got one without a graph or a version")
    return model


def _close(graph: GraphProto) -> None:
    """Read a negative size as one that is open, which is what its writers mean."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 0:
                dim.ClearField("dim_value")


def _densify(graph: GraphProto) -> None:
    """Write sparse constants out."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(numpy_helper.from_array(_dense(sparse), sparse.values.name))
    del graph.sparse_initializer[:]


def _dense(sparse: SparseTensorProto) -> NDArray[Any]:
    name, shape = sparse.values.name, tuple(sparse.dims)
    if any(size < 0 for size in shape) or math.prod(shape) * 8 > _DENSE:
        raise SubjectError(f"the sparse constant {name!r} has the shape {shape}; expected at most 1 GB of numbers")
    if TensorProto.EXTERNAL in (sparse.values.data_location, sparse.indices.data_location):
        raise SubjectError(f"the sparse constant {name!r} lies outside of the file; write it as a dense one")
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(shape, values.dtype)
    flat = places.reshape(-1) if places.ndim < 2 or not shape else None
    try:
        if flat is None:
            flat = np.ravel_multi_index(tuple(places.T), shape)
        if flat.size and (flat.min() < 0 or flat.max() >= dense.size):
            raise ValueError("places outside of its shape")
        dense.reshape(-1)[flat] = values
    except (ValueError, IndexError, TypeError) as error:
        raise SubjectError(f"the sparse constant {name!r} does not fit its own shape {shape}: {error}") from error
    return dense


def _latest(graph: GraphProto) -> None:
    """Of constants that share a name keep the last, which is the one that ONNX Runtime takes."""
    last = {tensor.name: index for index, tensor in enumerate(graph.initializer)}
    for index in reversed(range(len(graph.initializer))):
        if last[graph.initializer[index].name] != index:
            del graph.initializer[index]


def _valid(light: ModelProto) -> None:
    """Ask the checker, which wants more than runtimes do: shapes and types of the graph's own ends, a newer format."""
    asked = ModelProto()
    asked.CopyFrom(light)
    asked.ir_version = max(asked.ir_version, _NOT_LISTED)
    for value in (*asked.graph.input, *asked.graph.output):
        if not value.type.WhichOneof("value"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        kind = value.type
        while kind.WhichOneof("value") in ("sequence_type", "optional_type"):
            kind = getattr(kind, kind.WhichOneof("value")).elem_type
        if kind.WhichOneof("value") == "tensor_type":
            kind.tensor_type.shape.SetInParent()
    withdrawn.set_aside(asked)
    try:
        onnx.checker.check_model(asked)
    except Exception as error:  # the checker's errors share no public base
        raise SubjectError(first_line(error)) from error
