"""What the main job is asked for, and what it gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from attn_export.deploy_tests.data.images import Preprocess
from attn_export.deploy_tests.latency.comparison import Rules
from attn_export.deploy_tests.latency.measure import Protocol
from attn_export.export.onnx.torch_export import OPSET

Mutants = Literal["none", "fast", "full"]


@dataclass(frozen=True)
class DeployOptions:
    """What the user asked for."""

    target: Path
    fuse: bool = False
    cost: str = "cpu"
    keep: Sequence[str] = ()
    repair: bool = False
    strict: bool = False
    simplify: bool = True
    half: bool = False
    opset: int = OPSET
    seed: int = 0
    threads: int = 1
    atol: float | None = None
    rtol: float | None = None
    mutants: Mutants = "fast"
    data: Path | None = None
    preprocess: Preprocess | None = None
    measure: bool = True
    protocol: Protocol = field(default_factory=Protocol)
    rules: Rules = field(default_factory=Rules)
    command: Sequence[str] = ()

    @property
    def precision(self) -> str:
        """The element type that the model computes in."""
        return "float16" if self.half else "float32"
