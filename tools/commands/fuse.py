"""``fuse``: an ONNX file gives an ONNX file, a PyTorch network its weights or itself."""

from __future__ import annotations

from pathlib import Path

from attn_export.errors import UsageError
from attn_export.export import sources
from attn_export.export.source import SourceOptions
from attn_export.export.sources import user_code
from attn_export.pipeline.options import BuildOptions


def fuse(wanted: SourceOptions, output: Path, asked: BuildOptions, *, as_json: bool) -> None:
    """Collapse what pays, and write the result only with its certificate."""
    # Each imported where it is needed: a network wants PyTorch's tracing, which takes as long to load as a file takes.
    if user_code.SOURCE.claims(wanted.text):
        from attn_export.tools.commands import fused_network

        fused_network.writer(output)  # said before anything is loaded
        fused_network.fuse(sources.load(wanted), output, asked, as_json=as_json)
        return
    if wanted.inputs or wanted.arguments or wanted.weights or wanted.weights_key:
        raise UsageError(f"--input, --kwargs and --weights are for networks (file.py:name); {wanted.text} is a file")
    from attn_export.tools.commands import graphs

    graphs.fuse(Path(wanted.text), output, asked, as_json=as_json)
