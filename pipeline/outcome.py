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
from attn_export.pipeline.mutation_score import MutationScore
from attn_export.reparam.result import Fusion
from attn_export.types import JsonDict


@dataclass(frozen=True)
class DeployResult:
    """What the main job gave.

    Attributes:
        subject: what went down the pipeline.
        path: the bundle's folder.
        stages: nodes, bytes and parity of what each stage gave.
        fusion: what was fused, and its certificate; None where that was not asked for.
        mutation: which injected faults were caught; None where none were.
        comparison: the fused model against the original; None where they were not measured.
        warnings: what the user should know although it is no failure.
        seconds: of wall time, by stage.
        quantised: what the manifest records of a model in int8; None where none was asked for.
        int8_mutation: which faults of quantisation were caught; None where none were injected.
    """

    subject: Subject
    path: Path
    stages: tuple[StageResult, ...]
    fusion: Fusion[onnx.ModelProto] | None
    mutation: MutationScore | None
    comparison: LatencyComparison | None
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    quantised: JsonDict | None = None
    int8_mutation: MutationScore | None = None

    @property
    def parity(self) -> Parity:
        """The verdict on the last stage's model."""
        return self.stages[-1].parity

    @property
    def latency(self) -> Latency | None:
        """How long one run takes, where that was measured."""
        return next((step.latency for step in reversed(self.stages) if step.latency is not None), None)

    @cached_property
    def bundle(self) -> Bundle:
        """What was written, read again.

        Raises:
            BundleError: it was altered or removed meanwhile.
        """
        return bundle.read(self.path)

    def __str__(self) -> str:
        """Show the stages as a table of plain text, and the verdict."""
        lines = [f"{self.subject.name}, weights {self.subject.weights} -> {self.path}"]
        lines += [
            f"  {step.name:<10} {'' if step.nodes is None else step.nodes:>6} nodes  {step.summary()}"
            for step in self.stages
        ]
        return "\n".join([*lines, self.parity.summary()])

    def _repr_html_(self) -> str:
        """Show the same as a table, for notebooks."""
        rows = "".join(
            f"<tr><td>{escape(step.name)}</td><td>{'' if step.nodes is None else step.nodes}</td>"
            f"<td>{escape(step.summary())}</td></tr>"
            for step in self.stages
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
            "bundle": str(self.path),
            "parity": self.stages[-1].parity.ok,
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
                for step in self.stages
            ],
            "fused_sites": [site.name for site in self.fusion.sites] if self.fusion else [],
            "certificate": self.fusion.certificate.worst if self.fusion else None,
            "score": _score(self.mutation),
            "comparison": self.comparison.to_dict("fused", "original") if self.comparison else None,
            "warnings": list(self.warnings),
            "seconds": dict(self.seconds),
            "int8": self.quantised,
            "int8_score": _score(self.int8_mutation),
        }


def _score(found: MutationScore | None) -> float | None:
    """Give the share that was caught; None where nothing was judged, which JSON has no number for."""
    return found.score if found is not None and found.score == found.score else None
