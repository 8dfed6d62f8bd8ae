"""A ``.tflite`` file from the PyTorch program, at one batch and one size: what the format's CPU kernels take."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path

from attn_export import __version__
from attn_export.errors import ExportError
from attn_export.export.converters import INT8, Converted, Source
from attn_export.export.converters.litert import refusal
from attn_export.export.converters.litert.delegated import delegated
from attn_export.export.converters.litert.int8 import rewritten
from attn_export.export.onnx.exported import Contract
from attn_export.export.quantise import pairs
from attn_export.process.silence import silenced

PACKAGES = ("litert_torch", "ai_edge_litert")
#: Element types that become 32 bits wide unless the converter is told that they are meant.
_WIDE = ("int64", "uint64", "float64")


#: What the file in int8 is called, and its artifact.
_INT8 = "litert-int8"


class Litert:
    """``.tflite``: inputs are called ``args_0`` and so on in the order of the contract, outputs ``output_0``."""

    def missing(self) -> str | None:
        """Say how to install the converter, or None."""
        lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        return f"{lacking[0]} is not installed: pip install 'attn-export[litert]'" if lacking else None

    def convert(self, source: Source) -> Converted:
        """Trace the program once more, at fixed sizes, and let LiteRT write it; for int8 put our codes into that."""
        if why := self.missing():
            raise ExportError(why)
        if source.asked != INT8:
            source.only("litert", "float32")
            return _written(source)
        quantised = source.quantised("litert")
        plain = source.made.get("litert") or _written(replace(source, asked=""))
        content = next(iter(plain.files.values()))
        made = rewritten(content, pairs.read(source.exported.model, quantised))
        notes = [f"{_INT8}: {name} computes in float32: {why}" for name, why in made.floats.items()]
        with silenced(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{_INT8}.tflite")
            path.write_bytes(made.content)
            shares = delegated(path)
        notes += filter(None, [shares.summary(), _named(source.exported.contract, path.name)])
        return replace(
            plain,
            name=_INT8,
            files={path.name: made.content},
            produced_by=f"attn-export {__version__}, {plain.produced_by}",
            precision=INT8,
            notes=tuple(notes),
            taken=shares.share,
            floats=made.floats,
        )


def _written(source: Source) -> Converted:
    """Let LiteRT write the model in float32."""
    program = source.as_torch("litert")
    fixed, contract = source.fixed_dims(), source.exported.contract
    with silenced() as said, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        try:
            import litert_torch

            wide = any(port.dtype in _WIDE for port in (*contract.inputs, *contract.outputs))
            written = litert_torch.convert(program.module, program.at(fixed), enable_x64=wide)
            written.export(str(path))
            content = path.read_bytes()
        except Exception as error:  # the converter's exceptions share no base class
            raise ExportError(f"LiteRT cannot write the model: {refusal.reason(error, said())}") from error
        shares = delegated(path)
    version = f"litert-torch {importlib.metadata.version('litert-torch')}"
    notes = (*filter(None, [shares.summary()]), _named(contract, path.name))
    return Converted(
        "litert", "tflite", {path.name: content}, version, narrowed_dims=fixed, notes=notes, taken=shares.share
    )


def _named(contract: Contract, file: str) -> str:
    """Say what the file calls the inputs and outputs, which keep no names of ours."""
    ours = [f"args_{i} is {port.name}" for i, port in enumerate(contract.inputs)]
    theirs = [f"output_{i} is {port.name}" for i, port in enumerate(contract.outputs)]
    return f"in {file}, {', '.join(ours + theirs)}"
