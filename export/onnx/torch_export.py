"""Write a PyTorch module as ONNX with PyTorch's own exporter (``torch.onnx.export(dynamo=True)``)."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
import torch

from attn_export.errors import ContractError, ExportError
from attn_export.export.binding import bound, shapes
from attn_export.export.copies import copied
from attn_export.export.onnx import contract, fixed_sizes, operator_table, suppression
from attn_export.export.onnx.assumed import narrowed
from attn_export.export.onnx.beyond import compared
from attn_export.export.onnx.epsilons import lost
from attn_export.export.onnx.explained import explained
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.export.onnx.gelu import scale_first
from attn_export.export.onnx.opset import OPSET
from attn_export.export.onnx.pool_windows import settle_windows
from attn_export.export.outputs import evaluate
from attn_export.export.subject import Subject
from attn_export.process import activity
from attn_export.types import Dim, TensorSpec


def export(subject: Subject, opset: int = OPSET) -> Exported:
    """Export ``subject`` with exactly its dynamic dimensions, and assert the contract on the result.

    Their ranges in the contract are what tracing held for, which may be less than was asked for.

    Raises:
        ExportError: the exporter cannot convert the module; the message is its reason.
        ContractError: it gave something else than was asked for.
    """
    promised = _promise(subject, opset)
    program = _convert(subject, promised)
    model = program.model_proto
    settle_windows(model)
    _name_dimensions(model, promised)
    scale_first(model)
    checked = _checked(model, promised, subject)
    # From here on the outputs' shapes are promised too: what simplifies the graph must not fix a free size.
    assert program.exported_program is not None
    known: dict[str, bool] = {}

    def agrees(sizes: Mapping[str, int]) -> bool:
        key = str(sizes)
        if key not in known:
            known[key] = not compared(subject, model, sizes)
        return known[key]

    dims = narrowed(program.exported_program, subject, agrees)
    return Exported(
        model, Contract(opset, promised.inputs, tuple(map(contract.port, checked.model.graph.output)), dims)
    )


def _checked(model: onnx.ModelProto, promised: Contract, subject: Subject) -> Exported:
    """Assert the contract; where a size was fixed, find the line that did it."""
    try:
        return contract.check(model, promised)
    except contract.FixedSizeError as error:
        free, (positional, keywords) = _free(subject), bound(subject.module, subject.example())
        with _quiet():
            line = fixed_sizes.line(subject.module, positional, keywords, shapes(subject.module, free))
        found = f"; it happens at {line}" if line else ""
        instead = ", where len() of a tensor is a number: write x.shape[0]" if "len(" in line else ""
        raise ContractError(f"{error}{found}{instead}") from error


def traced(subject: Subject, opset: int = OPSET) -> torch.export.ExportedProgram:
    """Trace ``subject`` as ``export`` does: the program's nodes have the names that the graph's tensors get.

    Raises:
        ExportError, ContractError: as ``export``.
    """
    program = _convert(subject, _promise(subject, opset)).exported_program
    assert program is not None
    return program


def _promise(subject: Subject, opset: int) -> Contract:
    """Write down what is asked for; only running the module tells what it gives."""
    inputs, named = subject.example(), {dim.name: dim for dim in subject.dynamic}
    outputs = evaluate(copied(subject.module), inputs)  # what a first run keeps would be in the trace
    if imaginary := [name for name, value in outputs.items() if value.is_complex()]:
        raise ContractError(
            f"output {imaginary[0]!r} of {subject.name} is complex, and ONNX has no such type: give"
            " torch.view_as_real(y), or its absolute value"
        )
    return Contract(
        opset,
        tuple(
            TensorSpec(item.name, item.dtype, tuple(_size(dim, subject, named) for dim in item.shape))
            for item in subject.inputs
        ),
        tuple(
            TensorSpec(name, str(value.dtype).removeprefix("torch."), tuple("?" for _ in value.shape))
            for name, value in outputs.items()
        ),
    )


def _convert(subject: Subject, promised: Contract) -> torch.onnx.ONNXProgram:
    positional, keywords = bound(subject.module, subject.example())
    module = copied(subject.module)  # what forward keeps in the trace holds no numbers, and no later run could use it
    exporting = activity.doing("exporting the module", who="PyTorch's exporter")
    with _quiet() as said, exporting, operator_table.kept():
        try:
            program = torch.onnx.export(
                module,
                positional,
                kwargs=keywords or None,
                dynamo=True,
                opset_version=promised.opset,
                input_names=[p.name for p in promised.inputs],
                output_names=[p.name for p in promised.outputs],
                dynamic_shapes=free(subject),
                verbose=False,
                external_data=False,
            )
        except Exception as error:  # the exporter wraps whatever any layer of it raises
            raise ExportError(explained(subject.name, error, lambda: suppression.cut(subject))) from error
    if program is None:
        raise ExportError(f"{subject.name} cannot be exported: {said.getvalue().strip()[-300:]}")
    assert program.exported_program is not None
    if gone := lost(program.exported_program, program.model_proto):
        raise ContractError(
            f"{subject.name}: the exporter dropped the small constant {', '.join(f'{v:g}' for v in gone)} that forward"
            " adds; where it guards a division, write clamp_min instead, or take a larger one"
        )
    return program


def free(subject: Subject) -> Any:
    """Say which axes may vary, as PyTorch's exporter takes it; None where none may."""
    symbols = {dim.name: _symbol(dim) for dim in subject.dynamic}
    axes = {
        item.name: {
            axis: symbols[dim] for axis, dim in enumerate(item.shape) if isinstance(dim, str) and dim in symbols
        }
        for item in subject.inputs
    }
    return shapes(subject.module, axes) if symbols else None


def _free(subject: Subject) -> dict[str, dict[int, object]]:
    """Give the axes of each input that may vary, with the exporter's dimensions."""
    symbols = {dim.name: _symbol(dim) for dim in subject.dynamic}
    return {
        item.name: {
            axis: symbols[dim] for axis, dim in enumerate(item.shape) if isinstance(dim, str) and dim in symbols
        }
        for item in subject.inputs
    }


def _symbol(dim: Dim) -> object:
    """Make the exporter's dimension; multiples of a step are a multiple of a free dimension."""
    most = None if dim.max is None else dim.max // dim.step
    least = max(1, -(-dim.min // dim.step))
    if dim.step == 1:
        return torch.export.Dim(dim.name, min=least, max=most)
    return dim.step * torch.export.Dim(f"{dim.name}_by_{dim.step}", min=least, max=most)


def _size(dim: int | str, subject: Subject, named: dict[str, Dim]) -> int | str:
    return dim if isinstance(dim, int) or dim in named else subject.sizes[dim]


def _name_dimensions(model: onnx.ModelProto, promised: Contract) -> None:
    """Give dynamic dimensions the names they were asked for under; hide the exporter's internal symbols."""
    for value, port in zip(model.graph.input, promised.inputs, strict=False):
        for dim, name in zip(value.type.tensor_type.shape.dim, port.shape, strict=False):
            if dim.dim_param and isinstance(name, str):
                dim.dim_param = name
    for value in model.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if re.search(r"\bs\d+\b|_by_\d+", dim.dim_param):
                dim.dim_param = f"{value.name}_{axis}"
    # Inner shapes carry the old names; they are derived data, and inference makes them anew.
    del model.graph.value_info[:]


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keep the exporter from printing advice about itself; what it says is at hand for an error message."""
    said = io.StringIO()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    root, root_level = logging.getLogger("onnxscript"), logging.getLogger("onnxscript").level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield said
    finally:
        logger.setLevel(level)
        root.setLevel(root_level)
