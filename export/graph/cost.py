"""What each node of a graph costs in principle: multiply-accumulates and bytes, at the sizes of one case.

    Conv     macs = elements(y) · c_in / groups · k₁ · k₂ …
    MatMul   macs = elements(y) · (length of the contracted dimension)
    other    flops = elements(y) (one operation an element; a reduction: elements(x))
    bytes    every input and output once: what must move at least

Sizes come from ONNX's own shape inference with the case's numbers put in for the dimension names. The result goes
into the manifest, so that the device side can say where the time goes without onnx.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from attn_export.export.graph.light import skeleton
from attn_export.export.graph.origin import noted

#: Operators that only rename or view: no arithmetic.
_FREE = frozenset(
    ("Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Shape", "Constant", "Cast", "Transpose", "Slice")
) | frozenset(("Concat", "Split", "Gather", "Expand", "Pad", "ConstantOfShape", "Tile"))
#: Of these, those that move nothing either.
VIEWS = frozenset(("Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Shape"))

Origins = Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Cost:
    """One node: its names, what it multiplies, computes and moves.

    Attributes:
        module: path of the Python module it came from; empty where the graph does not say.
        source: the innermost ``file:line`` of the user's code; empty where the graph does not say.
        known: whether all its shapes are known; if not, its figures are too small.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int
    flops: int
    bytes: int
    module: str = ""
    source: str = ""
    known: bool = True


def costs(
    model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]], origins: Origins | None = None
) -> tuple[Cost, ...]:
    """Cost of every node but constants, in the order of the graph; ``sizes`` are the shapes of the inputs.

    ``origins`` of the graph before a simplifier that drops metadata say where a node of the same name came from.
    """
    shapes, widths = _shapes(model, sizes)
    known = {**(origins or {}), **origins_of(model)}
    weights = {tensor.name for tensor in model.graph.initializer}
    rows = []
    for node in model.graph.node:
        if node.op_type != "Constant":
            module, source = known.get(node.name, ("", ""))
            rows.append(_cost(node, shapes, widths, module or _owner(node, weights), source))
    return tuple(rows)


def origins_of(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Collect module path and source line by node name, from the exporter's metadata where a stage left it."""
    found = {node.name: _origin(node) for node in model.graph.node if node.name}
    return {name: origin for name, origin in found.items() if any(origin)}


def tensor_bytes(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Count the bytes of every tensor that is known once the inputs have ``sizes``."""
    shapes, each = _shapes(model, sizes)
    return {name: int(math.prod(shape) * each.get(name, 4.0)) for name, shape in shapes.items()}


def _owner(node: onnx.NodeProto, weights: set[str]) -> str:
    """Name the module that a node's weight is named after: ``stem.conv.weight`` is of ``stem.conv``."""
    names = (name.rpartition(".")[0] for name in node.input if name in weights)
    return next((name for name in names if name), "")


def to_manifest(rows: Sequence[Cost], case: str) -> dict[str, Any]:
    """Make the manifest's ``costs``: of which case, in all, and for each node."""
    return {
        "case": case,
        "macs": sum(row.macs for row in rows),
        "flops": sum(row.flops for row in rows),
        "bytes": sum(row.bytes for row in rows),
        "nodes": [asdict(row) for row in rows],
    }


def _shapes(
    model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]
) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    """Shape and bytes per element of every tensor that is known once the inputs have ``sizes``."""
    bare = skeleton(model)  # the whole model would be copied, several times over
    del bare.graph.value_info[:]  # they hold the symbolic sizes
    for port in bare.graph.input:
        if port.name in sizes:
            kind = port.type.tensor_type.elem_type
            port.CopyFrom(helper.make_tensor_value_info(port.name, kind, list(sizes[port.name])))
    for port in bare.graph.output:
        port.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(bare, strict_mode=False, data_prop=True)
    shapes: dict[str, tuple[int, ...]] = {}
    widths: dict[str, float] = {}
    for tensor in inferred.graph.initializer:
        shapes[tensor.name], widths[tensor.name] = tuple(tensor.dims), _width(tensor.data_type)
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        kind = value.type.tensor_type
        widths[value.name] = _width(kind.elem_type)
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    for node in inferred.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            shapes[node.output[0]] = numpy_helper.to_array(node.attribute[0].t).shape
    return shapes, widths


def _width(kind: int) -> float:
    if kind in (TensorProto.UNDEFINED, TensorProto.STRING):
        return 0.0
    if "INT4" in TensorProto.DataType.Name(kind):
        return 0.5
    return float(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _cost(
    node: onnx.NodeProto,
    shapes: Mapping[str, tuple[int, ...]],
    widths: Mapping[str, float],
    module: str,
    source: str,
) -> Cost:
    used, made = [n for n in node.input if n], [n for n in node.output if n]
    known = all(name in shapes for name in (*used, *made))
    moved = (
        0
        if node.op_type in VIEWS
        else sum(math.prod(shapes[name]) * widths.get(name, 4.0) for name in (*used, *made) if name in shapes)
    )
    macs = _macs(node, shapes)
    flops = 2 * macs + (0 if node.op_type in _FREE or macs else _elements(node, shapes))
    return Cost(node.name, node.op_type, tuple(used), tuple(made), macs, flops, int(moved), module, source, known)


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if not node.output or node.output[0] not in shapes:
        return 0
    made = math.prod(shapes[node.output[0]])
    ins = [shapes.get(name, ()) for name in node.input]
    match node.op_type:
        case "Conv" if len(ins) > 1 and ins[1]:
            return made * math.prod(ins[1][1:])
        case "ConvTranspose" if len(ins) > 1 and ins[1] and ins[0]:
            return math.prod(ins[0]) * math.prod(ins[1][1:])
        case "MatMul" if ins[0]:
            return made * ins[0][-1]
        case "Gemm" if ins[0]:
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            return made * ins[0][0 if turned else -1]
        case "Einsum":
            return _einsum(node, ins)
    return 0


def _einsum(node: onnx.NodeProto, ins: Sequence[tuple[int, ...]]) -> int:
    """Multiply every letter's length: what a plain loop would multiply."""
    equation = next((a.s.decode() for a in node.attribute if a.name == "equation"), "")
    terms = equation.partition("->")[0].replace(" ", "").split(",")
    if "..." in equation or any(len(t) != len(s) for t, s in zip(terms, ins, strict=False)):
        return 0
    lengths = {
        letter: n for term, shape in zip(terms, ins, strict=False) for letter, n in zip(term, shape, strict=True)
    }
    return math.prod(lengths.values()) if len(terms) > 1 else 0


def _elements(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Elements written, or read where that is more, as in a reduction or a pooling."""
    read = math.prod(shapes[node.input[0]]) if node.input and node.input[0] in shapes else 0
    made = sum(math.prod(shapes[name]) for name in node.output if name in shapes)
    return max(read, made)


def _origin(node: onnx.NodeProto) -> tuple[str, str]:
    """Read module path and source line from the exporter's metadata, where a stage left it."""
    origin = noted(node)
    if origin is None:
        return "", ""
    return origin.module, f"{origin.file}:{origin.line}" if origin.file else ""
