"""A ``.mlpackage`` from the PyTorch program, at one batch and one size, read back and held against the program.

Nothing here runs the format, so two things stand in for that, and neither is a proof: the program gives what the proven
model gives for the example, and what was written has the program's ports, operators and weights.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attn_export.errors import ExportError
from attn_export.export.converters import Converted, Source
from attn_export.export.converters.coreml import package
from attn_export.export.converters.coreml import program as programs
from attn_export.export.converters.coreml.program import Port, Structure
from attn_export.export.onnx.save import save
from attn_export.export.torch_program import TorchProgram
from attn_export.process.silence import silenced
from attn_export.types import Array
from attn_export.untrusted.text import few, first_line

#: The folder that a bundle holds.
NAME = "coreml.mlpackage"
#: The largest difference between program and model, over the model's norm. Rounding gave up to 1.7e-7 (RepVGG), and one
#: channel that is 5 % too large 3.2e-4 at the least that was seen to matter.
SAME = 2.0**-15
#: Element types that the format has not, and what stands for them.
_NARROWED = {"int64": "int32", "bool": "int32"}
#: Steps of the converter that compute new weights: left to Apple's compiler, so that weights can be compared.
_FOLDING = ("fuse_conv_batchnorm", "fuse_conv_scale", "fuse_conv_bias", "fuse_matmul_weight_bias", "fuse_linear_bias")


class CoreMl:
    """``coreml.mlpackage``, a folder that Apple's tools open."""

    def missing(self) -> str | None:
        """Say how to install the converter, or None."""
        if importlib.util.find_spec("coremltools") is None:
            return "coremltools is not installed: pip install 'attn-export[coreml]'"
        return None

    def convert(self, source: Source) -> Converted:
        """Trace the program once more, at fixed sizes, let coremltools write it, and compare what it wrote."""
        if why := self.missing():
            raise ExportError(why)
        source.only("coreml", "float32")
        program, fixed = source.as_torch("coreml"), source.fixed_dims()
        example = program.at(fixed)
        _same_model(program, example, source)
        with silenced(), tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, NAME)
            try:
                import coremltools

                traced = torch.export.export(program.module, example).run_decompositions({})
                traced = programs.without_aliases(traced)
                passes = coremltools.PassPipeline()
                passes.remove_passes([f"common::{name}" for name in _FOLDING])
                made = coremltools.convert(
                    traced,
                    convert_to="mlprogram",
                    minimum_deployment_target=coremltools.target.iOS17,
                    compute_precision=coremltools.precision.FLOAT32,
                    pass_pipeline=passes,
                    skip_model_load=True,
                )
                made.save(str(folder))
                specification = coremltools.models.utils.load_spec(str(folder))
                came, files = package.structure(specification, folder), package.files(specification, folder)
            except Exception as error:  # the converter's exceptions share no base class
                raise ExportError(f"coremltools cannot write the model: {first_line(error)}") from error
        checked = compared(programs.structure(traced), came)
        version = f"coremltools {importlib.metadata.version('coremltools')}"
        return Converted(
            "coreml",
            "mlpackage",
            {f"{NAME}/{name}": content for name, content in files.items()},
            version,
            narrowed_dims=fixed,
            notes=(f"{NAME} was not run: {checked}", _named(specification, source)),
            checked=checked,
        )


def _same_model(program: TorchProgram, example: Sequence[torch.Tensor], source: Source) -> None:
    """Run program and model on the example.

    Raises:
        ExportError: the program gives something else.
    """
    import onnxruntime

    contract = source.exported.contract
    with torch.inference_mode():
        ours = [value.numpy() for value in program.module(*example)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        save(source.exported.model, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feeds = {port.name: value.numpy() for port, value in zip(contract.inputs, example, strict=True)}
        theirs = session.run([port.name for port in contract.outputs], feeds)
    for port, one, other in zip(contract.outputs, ours, theirs, strict=True):
        if one.shape != other.shape or not _far(one, other) <= SAME:
            raise ExportError(
                f"the PyTorch program is not the model: expected the example's {port.name!r} within {SAME:g} of what"
                " ONNX Runtime computes from the model, got something else; report that"
            )


def _far(one: Array, other: Array) -> float:
    apart, size = (float(np.linalg.norm(value)) for value in (one.astype(np.float64) - other, other.astype(np.float64)))
    return apart / size if size else apart


def compared(program: Structure, came: Structure) -> str:
    """Hold what stands in a file against the program that it is of, and say what was compared.

    Raises:
        ExportError: a port, an operator or a weight of the program is not in the file as it is in the program.
    """
    for what, ours, theirs in (
        ("inputs", _given(program.inputs), came.inputs),
        ("outputs", _given(program.outputs), came.outputs),
        ("convolutions, by their multiplications,", program.convolutions, came.convolutions),
        ("products of matrices, by their multiplications,", program.matrices, came.matrices),
    ):
        if ours != theirs:
            raise ExportError(
                f"{NAME} is not the program: expected the {what} {_short(ours)}, got {_short(theirs)}; report that to"
                " coremltools"
            )
    there = {bits for weight in came.weights for bits in _layouts(weight)}
    lost = [weight.shape for weight in program.weights if weight.tobytes() not in there]
    if lost:
        raise ExportError(
            f"{NAME} is not the program: of {len(program.weights)} weights {len(lost)} are not in it bit for bit, the"
            f" first of shape {lost[0]}; report that to coremltools"
        )
    operators = len(program.convolutions) + len(program.matrices)
    return (
        "Apple's compiler never saw it, and nobody knows what it computes; read back, it has the inputs and outputs of"
        f" the program, its operators with weights ({operators}) and its weights, bit for bit ({len(program.weights)})"
    )


def _given(ports: Sequence[Port]) -> tuple[Port, ...]:
    return tuple((_NARROWED.get(kind, kind), shape) for kind, shape in ports)


def _short(values: Sequence[object]) -> str:
    return f"{few(list(map(str, values)), 4)} ({len(values)})"


def _layouts(weight: NDArray[Any]) -> Sequence[bytes]:
    """Give the bits of a weight, and of a matrix lying the other way."""
    return [weight.tobytes(), weight.swapaxes(-1, -2).tobytes()] if weight.ndim > 1 else [weight.tobytes()]


def _named(specification: Any, source: Source) -> str:
    """Say what the package calls the inputs and outputs, which keep no names of ours."""
    contract = source.exported.contract
    inputs, outputs = package.names(specification)
    pairs = [*zip(inputs, contract.inputs, strict=True), *zip(outputs, contract.outputs, strict=True)]
    return f"in {NAME}, {', '.join(f'{theirs} is {ours.name}' for theirs, ours in pairs)}"
