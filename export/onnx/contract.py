"""Assert on a model what was asked for. The exporters' known ways of giving something else all end here.

Seen in the wild: the opset silently kept at 18, unused inputs dropped, a batch size baked in by Python arithmetic,
an attribute written as a 1-tuple, functions and private domains that a target does not have.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from attn_export.errors import ContractError
from attn_export.export.graph.index import graph_inputs
from attn_export.export.graph.light import light
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.types import TensorSpec
from attn_export.untrusted.text import first_line

#: The newest ONNX file format that runtimes of the last two years read; opsets above 22 need a newer one.
NEWEST_IR = 10


def check(model: onnx.ModelProto, contract: Contract) -> Exported:
    """Return the model with its contract, or say which part of the contract it breaks.

    Raises:
        ContractError: the model is not valid, or not what was asked for.
    """
    try:
        onnx.checker.check_model(light(model), full_check=True)
    except Exception as error:  # the checker's and the inference's errors share no base class
        raise ContractError(f"the model is not valid ONNX: {first_line(error)}") from error
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    used = {node.domain or "ai.onnx" for node in model.graph.node}
    if foreign := sorted(used - {"ai.onnx"}) or sorted({f.domain for f in model.functions}):
        raise ContractError(f"wanted standard ONNX operators only; came operators of {', '.join(foreign)}")
    if opsets.get("ai.onnx") != contract.opset:
        raise ContractError(
            f"wanted opset {contract.opset}, came {opsets.get('ai.onnx')}:"
            " the exporter could not convert it; ask for the opset it gives with --opset"
        )
    newest = max(NEWEST_IR, helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))
    if model.ir_version > newest:
        raise ContractError(f"wanted IR version {newest} or older, came {model.ir_version}; ask for an older --opset")
    _same("input", contract.inputs, [port(value) for value in graph_inputs(model)])
    _same("output", contract.outputs, [port(value) for value in model.graph.output])
    return Exported(model, contract)


def of(model: onnx.ModelProto) -> Contract:
    """Read the contract that a model would keep by staying what it is."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return Contract(opset, tuple(map(port, graph_inputs(model))), tuple(map(port, model.graph.output)))


def port(value: onnx.ValueInfoProto) -> TensorSpec:
    """Read name, element type and shape of a graph input or output."""
    tensor = value.type.tensor_type
    if tensor.elem_type == TensorProto.UNDEFINED:
        raise ContractError(f"{value.name!r} is no tensor, or has no element type")
    dims = tuple(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim)
    return TensorSpec(value.name, str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), dims)


def _same(kind: str, wanted: tuple[TensorSpec, ...], came: list[TensorSpec]) -> None:
    if [p.name for p in wanted] != [p.name for p in came]:
        raise ContractError(
            f"wanted {kind}s {_names(wanted)}, came {_names(came)};"
            " an input that plays no part is dropped by the exporter: take it out of forward"
        )
    for want, come in zip(wanted, came, strict=True):
        if want.dtype != come.dtype:
            raise ContractError(f"{kind} {want.name!r}: wanted {want.dtype}, came {come.dtype}")
        if len(want.shape) != len(come.shape) or not all(map(_fits, want.shape, come.shape)):
            raise ContractError(
                f"{kind} {want.name!r}: wanted shape {_shape(want)}, came {_shape(come)};"
                " a size was fixed while tracing: look for int(), len() or a comparison of sizes in forward,"
                " or export with --dynamic none"
            )


def _fits(want: int | str, come: int | str) -> bool:
    """A number must come as that number; a name as any name; ``?`` (not known beforehand) as anything."""
    return want == "?" or (isinstance(want, str) and isinstance(come, str)) or want == come


def _names(ports: tuple[TensorSpec, ...] | list[TensorSpec]) -> str:
    return ", ".join(p.name for p in ports) or "none"


def _shape(port: TensorSpec) -> str:
    return "x".join(map(str, port.shape))
