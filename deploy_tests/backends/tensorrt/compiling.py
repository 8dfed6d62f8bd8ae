"""TensorRT for RTX as a compiler: it builds for a GPU that is not there, which TensorRT cannot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from attn_export.deploy_tests.backend import CompileOptions
from attn_export.deploy_tests.backends.tensorrt import evidence
from attn_export.deploy_tests.backends.tensorrt.backend import TensorRT


@dataclass(frozen=True)
class CompilingTensorRT(TensorRT):
    """TensorRT for RTX; its parser is also the nearest there is to the one of TensorRT, so it speaks for both."""

    compiles_for: ClassVar[tuple[str, ...]] = ("tensorrt", "tensorrt_rtx")

    def missing_compiler(self) -> str | None:
        """Say what to install before ``compile_only`` can work, or None; no GPU and no driver is needed."""
        return evidence.missing()

    def compile_only(self, model: Path, options: CompileOptions) -> evidence.CompileEvidence:
        """Parse and build ``model`` for a compute capability such as ``sm86``, which is meant where none is named."""
        return evidence.compile_only(model, options.device or evidence.SM, shapes=options.shapes)
