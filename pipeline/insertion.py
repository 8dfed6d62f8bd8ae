"""What a mechanism costs inside a network: the same network with it and without, built alike and measured in pairs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.deploy_tests.latency.comparison import LatencyComparison, Rules, compare_latency
from attn_export.export.arrays import arrays
from attn_export.export.graph.cost import costs
from attn_export.export.onnx.exported import Exported
from attn_export.export.onnx.save import save
from attn_export.export.subject import Subject
from attn_export.pipeline import stages
from attn_export.pipeline.options import BuildOptions
from attn_export.pipeline.progress import Progress
from attn_export.reparam.result import Fusion


@dataclass(frozen=True)
class Cost:
    """What one network costs as it is deployed.

    Attributes:
        parameters: numbers that training learns, before fusing.
        nodes: of the graph.
        macs: multiply-accumulates of the graph.
        fused: regions that were collapsed; None where that was not asked for.
    """

    parameters: int
    nodes: int
    macs: int
    fused: int | None


@dataclass(frozen=True)
class Difference:
    """Two networks beside each other; the ratio is of the second's time to the first's."""

    before: Cost
    after: Cost
    latency: LatencyComparison | None


def difference(
    before: Subject, after: Subject, build: BuildOptions, rules: Rules | None, progress: Progress
) -> Difference:
    """Build both networks, count, and let them take turns.

    Args:
        before: the network.
        after: the network with something in it; its inputs are those of ``before``.
        build: what the stages do to both.
        rules: of the comparison; without any, nothing is timed.
        progress: who sees the stages.

    Raises:
        ConversionError: one of them cannot be converted.
        BackendError: one of them does not run.
    """
    feeds = arrays(before.example())
    with tempfile.TemporaryDirectory() as scratch:
        folder, found = Path(scratch), []
        for name, subject in (("before", before), ("after", after)):
            with progress.stage(f"build {name}"):
                # What the main job proves is proven there; here graphs are counted and timed.
                state = stages.build(subject, replace(build, certify=False), (feeds,))
                save(state.model.model, folder / f"{name}.onnx")
            found.append(_cost(subject, state.model, state.account(Fusion), feeds))
        latency = None
        if rules is not None:
            bundle.write_cases(folder / bundle.CASES, [bundle.Case("example", feeds, {}, {})])
            with progress.stage("after against before"):
                latency = compare_latency(
                    folder / "after.onnx",
                    folder / "before.onnx",
                    folder / bundle.CASES,
                    rules=rules,
                    progress=progress.detail,
                )
    return Difference(found[0], found[1], latency)


def _cost(subject: Subject, model: Exported, fusion: Fusion[Any] | None, feeds: Mapping[str, Any]) -> Cost:
    rows = costs(model.model, {name: value.shape for name, value in feeds.items()})
    parameters = sum(one.numel() for one in subject.module.parameters())
    return Cost(parameters, model.nodes, sum(row.macs for row in rows), len(fusion.sites) if fusion else None)
