"""Assert on a model what was asked for. The exporters' known ways of giving something else all end here.

Seen in the wild: the opset silently kept at 18, unused inputs dropped, a batch size baked in by Python arithmetic,
an attribute written as a 1-tuple, functions and private domains that a target does not have.
"""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import TensorProto, helper

from attn_export.errors import ContractError
from attn_export.export.graph.index import graph_inputs
from attn_export.export.graph.light import SMALL, light, size_of, skeleton
from attn_export.export.onnx import invalid, withdrawn
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.types import TensorSpec

#: The newest ONNX file format that runtimes of the last two years read; opsets above 22 need a newer one.
NEWEST_IR = 10


#: Bytes of weights that the checker is not given with the rest: it copies what it is given, several times over.
HEAVY = 1 << 24


class FixedSizeError(ContractError):
    """A size is a number that was to vary."""


def check(model: onnx.ModelProto, contract: Contract) -> Exported:
    """Return the model with its contract, or say which part of the contract it breaks.

    Raises:
        ContractError: the model is not valid, or not what was asked for.
    """
    try:
        if withdrawn.kinds(model):  # of which inference knows nothing
            asked = skeleton(model)
            withdrawn.set_aside(asked)
            onnx.checker.check_model(asked)
        else:
            whole = light(model, HEAVY)
            onnx.checker.check_model(whole, full_check=True)
            if whole is not model:
                _check_apart(model)
    except Exception as error:  # the checker's and the inference's errors share no base class
        raise ContractError(invalid.explained(model, error)) from error
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    used = {node.domain or "ai.onnx" for node in model.graph.node}
    if foreign := sorted(used - {"ai.onnx"}) or sorted({f.domain for f in model.functions}):
        raise ContractError(
            f"expected standard ONNX operators only, got some of {', '.join(foreign)}; write them in standard ones"
        )
    if opsets.get("ai.onnx") != contract.opset:
        raise ContractError(
            f"expected opset {contract.opset}, got {opsets.get('ai.onnx')}:"
            " the exporter could not convert it; ask for the opset it gives with --opset"
        )
    newest = max(NEWEST_IR, helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))
    if model.ir_version > newest:
        raise ContractError(f"expected IR version {newest} or older, got {model.ir_version}; ask for an older --opset")
    _same("input", contract.inputs, [port(value) for value in graph_inputs(model)])
    _same("output", contract.outputs, [port(value) for value in model.graph.output])
    return Exported(model, contract)


def _check_apart(model: onnx.ModelProto) -> None:
    """Check the weights that were left out of the model, one by one.

    Raises:
        ValidationError: one of them is not what it says.
    """
    context = onnx.checker.DEFAULT_CONTEXT
    for tensor in model.graph.initializer:
        if size_of(tensor) > SMALL and tensor.data_location != TensorProto.EXTERNAL:
            onnx.checker.check_tensor(tensor, context)


def of(model: onnx.ModelProto) -> Contract:
    """Read the contract that a model would keep by staying what it is.

    A name in an output's shape that no input has is its writer's word for a size that it did not work out.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    inputs = tuple(map(port, graph_inputs(model)))
    known = {dim for item in inputs for dim in item.shape}
    outputs = [port(value) for value in model.graph.output]
    open_ = [tuple(dim if isinstance(dim, int) or dim in known else "?" for dim in item.shape) for item in outputs]
    return Contract(opset, inputs, tuple(replace(item, shape=dims) for item, dims in zip(outputs, open_, strict=True)))


def port(value: onnx.ValueInfoProto) -> TensorSpec:
    """Read name, element type and shape of a graph input or output."""
    tensor = value.type.tensor_type
    if tensor.elem_type == TensorProto.UNDEFINED:
        raise ContractError(f"{value.name!r} is not a tensor, or has no element type")
    dims = tuple(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim)
    return TensorSpec(value.name, str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), dims)


def _same(kind: str, expected: tuple[TensorSpec, ...], actual: list[TensorSpec]) -> None:
    if [p.name for p in expected] != [p.name for p in actual]:
        raise ContractError(
            f"expected {kind}s {_names(expected)}, got {_names(actual)};"
            " an input that plays no part is dropped by the exporter: take it out of forward"
        )
    for want, got in zip(expected, actual, strict=True):
        if want.dtype != got.dtype:
            raise ContractError(f"{kind} {want.name!r}: expected {want.dtype}, got {got.dtype}; cast it in forward")
        if len(want.shape) != len(got.shape) or not all(map(_fits, want.shape, got.shape)):
            raise FixedSizeError(
                f"{kind} {want.name!r}: expected shape {_shape(want)}, got {_shape(got)};"
                " a size was fixed while tracing: look for int(), len() or a comparison of sizes in forward,"
                " or export with --dynamic none"
            )


def _fits(want: int | str, got: int | str) -> bool:
    """Match a number with that number, a name with any name, and ``?`` (not known beforehand) with anything."""
    return want == "?" or (isinstance(want, str) and isinstance(got, str)) or want == got


def _names(ports: tuple[TensorSpec, ...] | list[TensorSpec]) -> str:
    return ", ".join(p.name for p in ports) or "none"


def _shape(port: TensorSpec) -> str:
    return "x".join(map(str, port.shape))
