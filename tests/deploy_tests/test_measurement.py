"""All that can be asked of one bundle in one go: what comes out keeps the report's schema and renders."""

from __future__ import annotations

import json

import pytest

from attn_export.bundle import Bundle
from attn_export.deploy_tests import backends, measurement
from attn_export.deploy_tests.latency.measure import Protocol
from attn_export.deploy_tests.measurement import MeasureOptions, measure_bundle
from attn_export.errors import InconclusiveError, UsageError
from attn_export.pipeline.report.page import render
from tests.deploy_tests.test_latency import write
from tests.pipeline.reports import manifest
from tests.pipeline.schema import faults

SHORT = Protocol(warmup=0, warmup_runs=1, duration=0.01, iterations=100)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(tmp_path_factory.mktemp("measurement") / "product")


def test_everything_at_once_keeps_the_schema_and_renders(product: Bundle) -> None:
    said: list[str] = []
    wanted = MeasureOptions(
        protocol=SHORT, budgets=("p90<=1s", "p50<=1ns", "memory<=10GB"), mlperf=True, sustain=0.1, thread_counts=(1, 2),
        batch_sizes=(2, 4), profile=True,
    )  # fmt: skip
    came = measure_bundle(product, "onnxruntime", wanted, progress=said.append)
    report = json.loads(json.dumps({"schema_version": 3, "runs": [came.plain]}, allow_nan=False))
    assert faults(report) == []
    assert [finding.verdict for finding in came.findings] == ["passed", "failed", "passed"]
    assert len(report["runs"][0]["sweeps"]["batches"]) == 2
    assert report["runs"][0]["profile"]["rows"]
    assert said[0] == "latency"
    assert "p50&lt;=1ns" in render(manifest(), report)


def test_only_what_is_wanted_is_measured(product: Bundle) -> None:
    came = measure_bundle(product, "onnxruntime", MeasureOptions(protocol=SHORT, footprint=False)).plain
    assert came["footprint"] is came["mlperf"] is None
    assert came["sweeps"] == {}
    assert "profile" not in came
    assert "drift" not in came


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (MeasureOptions(budgets=("p90",)), "such as"),
        (MeasureOptions(batch_sizes=(3,)), "multiples of 2"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(
    product: Bundle, wanted: MeasureOptions, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "bundle_latency", lambda *_, **__: pytest.fail("it was measured first"))
    with pytest.raises(UsageError, match=why):
        measure_bundle(product, "onnxruntime", wanted)
    monkeypatch.setattr(backends, "found", lambda _: object())
    with pytest.raises(UsageError, match="plain has no profiler; leave it out"):
        measure_bundle(product, "plain", MeasureOptions(profile=True))


def test_too_few_runs_for_mlperf_is_inconclusive(product: Bundle) -> None:
    few = Protocol(warmup=0, warmup_runs=1, duration=0, iterations=10)
    with pytest.raises(InconclusiveError, match="64 queries"):
        measure_bundle(product, "onnxruntime", MeasureOptions(protocol=few, mlperf=True, footprint=False))


def test_the_default_sweep_ends_at_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, counts in ((1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))):
        monkeypatch.setattr(measurement.os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert measurement.thread_counts() == counts
