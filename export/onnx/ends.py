"""What an ONNX file takes and gives, as far as it says so itself, and what its first operators show beyond that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from attn_export.errors import SubjectError
from attn_export.export.graph.index import GraphIndex, attribute, graph_inputs, is_standard
from attn_export.mechanisms.spec import Dtype

#: Operators that change neither the shape nor which number means which row.
_PLAIN = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Clip", "Relu", "Neg", "Abs", "Sqrt")
_KINDS = {
    "sequence_type": "a sequence of tensors",
    "map_type": "a map",
    "optional_type": "an optional value",
    "sparse_tensor_type": "a sparse tensor",
}


@dataclass(frozen=True)
class FileInput:
    """One input of a file.

    Attributes:
        name: of the input.
        dtype: its element type.
        dims: a number, a name, or None where nothing is said; None as a whole where not even the rank is known.
        high: below which numbers whole values must lie, where the graph looks them up in a table; None elsewhere.
    """

    name: str
    dtype: Dtype
    dims: tuple[int | str | None, ...] | None
    high: int | None = None


def inputs(model: ModelProto) -> list[FileInput]:
    """List the inputs of a file.

    Raises:
        SubjectError: there is none, or one of them is no tensor of numbers that can be drawn.
    """
    index, values = GraphIndex(model), graph_inputs(model)
    if not values:
        raise SubjectError(
            "expected a graph with inputs, got one without: its outputs are constants, and nothing is computed on the"
            " device; make what varies an input"
        )
    return [FileInput(v.name, _drawn(v), _dims(v), _rows(index, _readers(index, v.name))) for v in values]


def declare_inputs(model: ModelProto) -> str:
    """Write down what the first operator behind an input takes: its rank and its channels, where the file is silent."""
    index, told = GraphIndex(model), []
    for value in graph_inputs(model):
        kind = value.type.WhichOneof("value")
        dims = _dims(value) if kind in (None, "tensor_type") else ()
        known = _filled(dims, index, _readers(index, value.name))
        if known == dims or known is None:
            continue
        shape = value.type.tensor_type.shape
        shape.SetInParent()
        while len(shape.dim) < len(known):
            shape.dim.add()
        for dim, size in zip(shape.dim, known, strict=True):
            if isinstance(size, int):
                dim.dim_value = size
        told.append(f"{value.name} ({'x'.join(str(size or '?') for size in known)})")
    return f"inputs declared as the first operator behind them takes them: {', '.join(told)}" if told else ""


def check_outputs(model: ModelProto) -> None:
    """Refuse outputs that cannot be compared.

    Raises:
        SubjectError: one of them is no tensor of numbers.
    """
    if not model.graph.output:
        raise SubjectError("expected a model that gives something, got one without outputs")
    for value in model.graph.output:
        if (kind := value.type.WhichOneof("value")) in _KINDS:
            raise SubjectError(
                f"output {value.name!r} is {_KINDS[kind]}; expected tensors of numbers, which can be compared: take it"
                " out of the graph's outputs, or put ConcatFromSequence or OptionalGetElement behind it"
            )
        if value.type.tensor_type.elem_type == TensorProto.STRING:
            raise SubjectError(
                f"output {value.name!r} is text; expected tensors of numbers, which can be compared: take it out of"
                " the graph's outputs"
            )


def rank_outputs(model: ModelProto, ranks: Mapping[str, int]) -> None:
    """Declare the outputs whose declared rank is another than they have; their sizes are then unknown."""
    for value in model.graph.output:
        rank, shape = ranks.get(value.name), value.type.tensor_type.shape
        if rank is not None and value.type.tensor_type.HasField("shape") and len(shape.dim) != rank:
            del shape.dim[:]
            for _ in range(rank):
                shape.dim.add()


def check_operators(model: ModelProto) -> None:
    """Refuse operators that are not the standard's: nobody but their own runtime knows what they mean.

    Raises:
        SubjectError: there is one.
    """
    foreign = [node for node in model.graph.node if not is_standard(node)]
    if not foreign:
        return
    first, domain = foreign[0], foreign[0].domain
    kinds = sorted({node.op_type for node in foreign})
    way = "export it in standard operators"
    if domain == "com.microsoft":
        way = "take the file from before ONNX Runtime or its tools optimised or quantised it, or " + way
    raise SubjectError(
        f"{len(foreign)} of {len(model.graph.node)} operators are not the standard's ({', '.join(kinds[:4])} of the"
        f" domain {domain!r}, first at {(first.name or next(iter(first.output), ''))!r}), so there is no float64"
        f" reference to prove them against; {way}"
    )


def _drawn(value: ValueInfoProto) -> Dtype:
    """Say in which element type an input is drawn."""
    kind = value.type.WhichOneof("value")
    if kind in _KINDS:
        raise SubjectError(f"input {value.name!r} is {_KINDS[kind]}; expected tensors: give its tensor as the input")
    number = value.type.tensor_type.elem_type
    if number == TensorProto.UNDEFINED:
        raise SubjectError(f"input {value.name!r} has no element type; declare it in the file")
    name = str(helper.tensor_dtype_to_np_dtype(number))
    known: dict[str, Dtype] = {dtype: dtype for dtype in get_args(Dtype)}
    if name not in known:
        shown = TensorProto.DataType.Name(number).lower()
        way = "give it as float32, and cast it inside" if "FLOAT" in shown.upper() else "give it as numbers"
        raise SubjectError(f"input {value.name!r} is {shown}; expected {', '.join(known)}: {way}")
    return known[name]


def _dims(value: ValueInfoProto) -> tuple[int | str | None, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else None) for dim in tensor.shape.dim)


def _readers(index: GraphIndex, name: str) -> list[tuple[NodeProto, int]]:
    """Find who reads an input, and at which place, seen through operators that change nothing of its sizes."""
    found, left, seen = list[tuple[NodeProto, int]](), [name], {name}
    while left:
        tensor = left.pop()
        for node in index.readers.get(tensor, []):
            if not is_standard(node):
                continue
            found.append((node, list(node.input).index(tensor)))
            if node.op_type in _PLAIN and node.output[0] not in seen:
                seen.add(node.output[0])
                left.append(node.output[0])
    return found


def _filled(
    dims: tuple[int | str | None, ...] | None, index: GraphIndex, readers: list[tuple[NodeProto, int]]
) -> tuple[int | str | None, ...] | None:
    """Fill in what a convolution or a batch norm behind the input takes: its rank, and its channels."""
    for node, place in readers:
        weight = index.tensors.get(node.input[1]) if len(node.input) > 1 and place == 0 else None
        if weight is None:
            continue
        shape = tuple(weight.dims)
        if node.op_type in ("Conv", "ConvTranspose") and len(shape) > 2:
            channels = shape[0] if node.op_type == "ConvTranspose" else shape[1] * attribute(node, "group", 1)
            dims = (None,) * len(shape) if dims is None else dims
            if len(dims) == len(shape) and not isinstance(dims[1], int):
                return (dims[0], channels, *dims[2:])
        if node.op_type == "BatchNormalization" and dims is not None and len(dims) > 1:
            return dims if isinstance(dims[1], int) else (dims[0], shape[0], *dims[2:])
        if node.op_type == "MatMul" and len(shape) == 2 and dims and not isinstance(dims[-1], int):
            return (*dims[:-1], shape[0])
    return dims


def _rows(index: GraphIndex, readers: list[tuple[NodeProto, int]]) -> int | None:
    """Say how many rows the smallest table has in which an input is looked up."""
    tables = [
        index.tensors[node.input[0]].dims[attribute(node, "axis", 0)]
        for node, place in readers
        if node.op_type == "Gather" and place == 1 and node.input[0] in index.tensors
    ]
    return min(map(int, tables), default=None)
