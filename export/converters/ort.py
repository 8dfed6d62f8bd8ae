"""ONNX Runtime's own format, which its reduced builds for phones and boards take in place of ONNX.

The graph is optimised as far as holds for every processor: layouts of one processor's vector units are left out, so
that a file written on a server is right and fast on a phone.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from attn_export.errors import ExportError
from attn_export.export.converters import Converted, Source
from attn_export.export.onnx.save import save
from attn_export.untrusted.text import first_line


class Ort:
    """``.ort``: a flat buffer that is loaded without parsing."""

    def missing(self) -> str | None:
        """Say how to install ONNX Runtime, or None."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "ONNX Runtime is not installed: pip install onnxruntime"
        return None

    def convert(self, source: Source) -> Converted:
        """Let ONNX Runtime load, optimise and write the model."""
        if why := self.missing():
            raise ExportError(why)
        source.only("ort", source.model_precision)
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder, "model.onnx"), Path(folder, "model.ort")
            save(source.exported.model, before)
            settings = onnxruntime.SessionOptions()
            settings.log_severity_level = 4
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            settings.optimized_model_filepath = str(after)
            settings.add_session_config_entry("session.save_model_format", "ORT")
            try:
                onnxruntime.InferenceSession(str(before), settings, providers=["CPUExecutionProvider"])
                content = after.read_bytes()
            except Exception as error:  # the runtime's exceptions share no base class of their own
                raise ExportError(f"ONNX Runtime cannot write the model as .ort: {first_line(error)}") from error
        return Converted("ort", "ort", {after.name: content}, f"ONNX Runtime {onnxruntime.__version__}")


CONVERTER = Ort()
