"""What the main job gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from attn_export.deploy_tests.latency.comparison import LatencyComparison
from attn_export.export.subject import Subject
from attn_export.pipeline.manifest import StageResult
from attn_export.pipeline.mutation_testing import MutationScore
from attn_export.reparam.result import Fusion


@dataclass(frozen=True)
class DeployResult:
    """What the main job gave."""

    subject: Subject
    target: Path
    steps: tuple[StageResult, ...]
    fusion: Fusion[onnx.ModelProto] | None
    score: MutationScore | None
    contest: LatencyComparison | None
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The same for machines, without the raw samples (those are in the bundle's report.json)."""
        return {
            "subject": self.subject.name,
            "weights": self.subject.weights,
            "bundle": str(self.target),
            "parity": self.steps[-1].parity.ok,
            "stages": [
                {
                    "name": step.name,
                    "nodes": step.nodes,
                    "bytes": step.bytes,
                    "k": step.parity.worst.k,
                    "k_bound": step.parity.tolerance,
                    "error": step.parity.worst.error,
                    "error_bound": step.parity.worst.bound,
                    "latency_ms": step.latency.percentiles() if step.latency else None,
                }
                for step in self.steps
            ],
            "fused_sites": [site.name for site in self.fusion.sites] if self.fusion else [],
            "certificate": self.fusion.certificate.worst if self.fusion else None,
            "kill_score": self.score.share if self.score and self.score.share == self.score.share else None,
            "fused_against_unfused": self.contest.to_dict() if self.contest else None,
            "warnings": list(self.warnings),
            "seconds": dict(self.seconds),
        }
