"""Which nodes of a float32 graph cannot compute in float16, and why.

A float32 run looks at every tensor; with the operators' schemas it decides what would overflow, vanish or not exist.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from attn_export.errors import ExportError
from attn_export.export.onnx.save import save
from attn_export.reparam.adapters.onnx.nodes import captured

LARGEST = float(np.finfo(np.float16).max)
#: Inputs that were not tried may be larger than those that were: half the range is kept in reserve.
MARGIN = 0.5
#: Beyond this a constant is a mask, standing for minus infinity, and is clamped; a weight is never that large.
MASK = 1e30
#: Above this float16 does not hold every integer.
EXACT = 2048
#: These add up many values; in float16 the sum may overflow where the mean does not.
SUMS = {"ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool", "AveragePool"}
#: These have graphs inside, or an element type of their own making, and are not rewritten.
ALWAYS_FULL = {"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "EyeLike", "Multinomial", "Bernoulli"}
#: What an epsilon guards against dividing by zero passes through these on its way to the division.
_ON_THE_WAY = {"Sqrt", "Pow", "Max", "Clip", "Expand", "Reshape", "Transpose", "Unsqueeze", "Squeeze"}
_DIVISIONS = {"Div", "Reciprocal", "Log"}


@dataclass
class Extent:
    """What a float32 run showed of one tensor."""

    dtype: np.dtype[Any]
    largest: float = 0.0
    total: float = 0.0  # the largest sum of magnitudes over one item of the batch


def observe(model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> dict[str, Extent]:
    """Run in float32 with every tensor as an output.

    Raises:
        ExportError: it does not run, or there is nothing to run it on.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    inside = [name for node in model.graph.node for name in node.output if name]
    ports = {port.name for port in model.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inside if name not in ports)
    seen = {tensor.name: Extent(np.dtype(np.float32)) for tensor in model.graph.initializer if is_float(tensor)}
    for tensor in model.graph.initializer:
        if is_float(tensor):
            _note(seen[tensor.name], numpy_helper.to_array(tensor))
    given = list(feeds)
    for feed, values in zip(given, run(watched, given), strict=True):
        for name, value in {**feed, **{name: values[name] for name in inside}}.items():
            array = np.asarray(value)
            _note(seen.setdefault(name, Extent(array.dtype)), array)
    if not given:
        raise ExportError("expected at least one input, to see which tensors overflow in float16; got none")
    return seen


def run(model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Run a graph as it stands, and give its outputs for each input.

    Raises:
        ExportError: it does not run.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "watched.onnx")
        save(model, path)
        try:
            session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
            names = [output.name for output in session.get_outputs()]
            for feed in feeds:
                yield dict(zip(names, session.run(names, dict(feed)), strict=True))
        except Exception as error:  # the runtime's exceptions share no base class of their own
            raise ExportError(
                f"the model does not run in float32, so nothing is known of its ranges: {error}"
            ) from error


def _note(what: Extent, array: NDArray[Any]) -> None:
    if array.dtype != np.float32 or not array.size:
        return
    finite = np.abs(np.where(np.abs(array) >= MASK, 0, np.nan_to_num(array, nan=np.inf)))
    what.largest = max(what.largest, float(finite.max()))
    items = finite.reshape(len(finite), -1) if finite.ndim > 1 else finite.reshape(1, -1)
    what.total = max(what.total, float(items.sum(axis=1, dtype=np.float64).max()))


def is_float(tensor: TensorProto) -> bool:
    """Whether a constant is float32."""
    return bool(tensor.data_type == TensorProto.FLOAT)


def decide(model: onnx.ModelProto, seen: Mapping[str, Extent], limit: float) -> dict[int, str]:
    """Decide which nodes stay in float32: index and reason of each; of several reasons the first."""
    fp32: dict[int, str] = {}
    for found in (
        _by_itself(model, seen, limit),
        _bounds(model, seen, fp32),
        _read_inside(model),
        _counted(model, seen),
    ):
        for index, reason in found:
            fp32.setdefault(index, reason)
    return fp32


#: Nodes that stay in float32, by position, and why.
Reasons = Iterator[tuple[int, str]]


def _by_itself(model: onnx.ModelProto, seen: Mapping[str, Extent], limit: float) -> Reasons:
    """Find nodes that float16 lacks, that overflow, or whose constant vanishes, with what that constant guards."""
    versions = {item.domain: item.version for item in model.opset_import}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    guarded: list[tuple[int, str]] = []
    for index, node in enumerate(model.graph.node):
        if reason := _unable(node, versions, seen) or _overflows(node, seen, limit):
            yield index, reason
        elif reason := _vanishes(node, constants):
            yield index, reason
            text = f"it is guarded by the constant of {node.name!r}, which float16 loses"
            guarded += [(inner, text) for inner in _guarded(model, index)]
    yield from guarded


def _bounds(model: onnx.ModelProto, seen: Mapping[str, Extent], fp32: Mapping[int, str]) -> Reasons:
    """Find nodes that compute the bounds of a Range, back to one that is in ``fp32`` already."""
    maker = _makers(model)
    names = [name for node in model.graph.node if node.op_type == "Range" for name in node.input]
    while names:
        index = maker.get(names.pop(), -1)
        if index >= 0 and index not in fp32 and floats(model.graph.node[index], seen):
            yield index, "it computes the bounds of a Range, which ONNX defines in float32"
            names += model.graph.node[index].input


def _read_inside(model: onnx.ModelProto) -> Reasons:
    """Find nodes whose result a graph inside another node reads."""
    maker = _makers(model)
    for name in {name for node in model.graph.node for name in captured(node)}:
        if name in maker:
            yield maker[name], "its result is used by a graph inside another node"


def _counted(model: onnx.ModelProto, seen: Mapping[str, Extent]) -> Reasons:
    """Find nodes that make large integers of floats, and those that make these floats."""
    maker = _makers(model)
    for index, node in enumerate(model.graph.node):
        if not _counts(node, seen):
            continue
        yield index, "it turns float values above 2048 into integers, which float16 does not hold exactly"
        if (source := maker.get(node.input[0])) is not None:
            yield source, "its integers above 2048 are used as such, and float16 does not hold them exactly"


def _makers(model: onnx.ModelProto) -> dict[str, int]:
    return {name: index for index, node in enumerate(model.graph.node) for name in node.output}


def floats(node: onnx.NodeProto, seen: Mapping[str, Extent]) -> list[str]:
    """List what a node takes and gives in float32."""
    return [n for n in (*node.input, *node.output) if n in seen and seen[n].dtype == np.float32]


def _unable(node: onnx.NodeProto, versions: Mapping[str, int], seen: Mapping[str, Extent]) -> str:
    if node.op_type in ALWAYS_FULL:
        return "it is not rewritten: it has a graph inside, or makes its own element type"
    if not floats(node, seen):
        return ""
    if node.domain not in ("", "ai.onnx"):
        return f"it is an operator not of ONNX but of {node.domain}"
    if not all(takes_float16(node, versions, i, output=True) for i in range(len(node.output))):
        return "ONNX does not define it for float16"
    main = [i for i, name in enumerate(node.input) if name in seen and seen[name].dtype == np.float32]
    if main and not any(takes_float16(node, versions, i) for i in main):
        return "ONNX does not define it for float16"
    return ""


def takes_float16(node: onnx.NodeProto, versions: Mapping[str, int], index: int, *, output: bool = False) -> bool:
    """Whether ONNX lets one input or output be float16; a position that is never float (such as a shape) does."""
    schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, versions.get("", 1)), node.domain)
    ports = schema.outputs if output else schema.inputs
    if not ports:
        return True
    types = ports[min(index, len(ports) - 1)].types
    return "tensor(float16)" in types or "tensor(float)" not in types


def _overflows(node: onnx.NodeProto, seen: Mapping[str, Extent], limit: float) -> str:
    for name in floats(node, seen):
        if seen[name].largest > limit:
            side = "gives" if name in node.output else "takes"
            return f"it {side} {seen[name].largest:.3g}, more than {limit:.3g}"
    if node.op_type in SUMS and node.input[0] in seen and (total := seen[node.input[0]].total) > limit:
        return f"it adds up to {total:.3g}, more than {limit:.3g}"
    return ""


def _vanishes(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> str:
    """Find a scalar such as an epsilon that float16 makes zero, or changes by more than a percent."""
    for name in node.input:
        tensor = constants.get(name)
        if tensor is None or not is_float(tensor) or int(np.prod(tensor.dims, dtype=np.int64)) != 1:
            continue
        value = float(numpy_helper.to_array(tensor).reshape(()))
        with np.errstate(over="ignore", under="ignore"):
            fp16 = float(np.float16(value))
        if value and abs(value) < MASK and abs(fp16 - value) > 0.01 * abs(value):
            return f"its constant {value:.3g} would be {fp16:.3g}"
    return ""


def _guarded(model: onnx.ModelProto, start: int) -> list[int]:
    """List the nodes from an epsilon to the division that it guards: cast in between, the guard would be lost."""
    reached, found = set(model.graph.node[start].output), []
    for index, node in enumerate(model.graph.node):  # sorted, so one pass reaches everything
        if index <= start or not reached & set(node.input):
            continue
        if node.op_type in _ON_THE_WAY | _DIVISIONS:
            found.append(index)
        if node.op_type in _ON_THE_WAY:
            reached |= set(node.output)
    return found


def _counts(node: onnx.NodeProto, seen: Mapping[str, Extent]) -> bool:
    if node.op_type != "Cast" or node.input[0] not in seen:
        return False
    source, result = seen[node.input[0]], seen.get(node.output[0])
    to_integer = result is not None and np.issubdtype(result.dtype, np.integer)
    return source.dtype == np.float32 and to_integer and source.largest > EXACT
