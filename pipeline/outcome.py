"""What the main job gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import onnx

from attn_export import bundle
from attn_export.bundle import Bundle
from attn_export.deploy_tests.latency.comparison import LatencyComparison
from attn_export.deploy_tests.latency.measure import Latency
from attn_export.deploy_tests.parity.compare import Parity
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

    @property
    def parity(self) -> Parity:
        """The verdict on the last stage's model."""
        return self.steps[-1].parity

    @property
    def latency(self) -> Latency | None:
        """How long one run takes, where that was measured."""
        return next((step.latency for step in reversed(self.steps) if step.latency is not None), None)

    @property
    def comparison(self) -> LatencyComparison | None:
        """The fused model against the original, where both were measured."""
        return self.contest

    @cached_property
    def bundle(self) -> Bundle:
        """What was written, read again.

        Raises:
            BundleError: it was altered or removed meanwhile.
        """
        return bundle.read(self.target)

    def __str__(self) -> str:
        """Show the stages as a table of plain text, and the verdict."""
        lines = [f"{self.subject.name}, weights {self.subject.weights} -> {self.target}"]
        lines += [
            f"  {step.name:<10} {'' if step.nodes is None else step.nodes:>6} nodes  {step.summary()}"
            for step in self.steps
        ]
        return "\n".join([*lines, self.parity.summary()])

    def _repr_html_(self) -> str:
        """Show the same as a table, for notebooks."""
        rows = "".join(
            f"<tr><td>{escape(step.name)}</td><td>{'' if step.nodes is None else step.nodes}</td>"
            f"<td>{escape(step.summary())}</td></tr>"
            for step in self.steps
        )
        return (
            f"<table><caption>{escape(self.subject.name)}</caption>"
            f"<thead><tr><th>stage</th><th>nodes</th><th>error</th></tr></thead><tbody>{rows}</tbody></table>"
            f"<p>{escape(self.parity.summary())}</p>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the same for machines, without the raw samples (those are in the bundle's report.json)."""
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
                    "error": step.parity.worst.error,
                    "error_limit": step.parity.worst.error_limit,
                    "normalized_error": step.parity.worst.normalized_error,
                    "normalized_limit": step.parity.normalized_limit,
                    "latency_ms": step.latency.percentiles() if step.latency else None,
                }
                for step in self.steps
            ],
            "fused_sites": [site.name for site in self.fusion.sites] if self.fusion else [],
            "certificate": self.fusion.certificate.worst if self.fusion else None,
            "score": self.score.score if self.score and self.score.score == self.score.score else None,
            "comparison": self.contest.to_dict("fused", "original") if self.contest else None,
            "warnings": list(self.warnings),
            "seconds": dict(self.seconds),
        }
