"""Reports to render: small or large, good or bad, with hostile names in them."""

from __future__ import annotations

import json
from typing import Any

from attn_export.deploy_tests.backend import Kernel
from attn_export.deploy_tests.latency.budget import check_budget as hold
from attn_export.deploy_tests.latency.budget import parse
from attn_export.deploy_tests.latency.comparison import summarise
from attn_export.deploy_tests.latency.footprint import Footprint
from attn_export.deploy_tests.latency.measure import Latency
from attn_export.deploy_tests.latency.mlperf import single_stream
from attn_export.deploy_tests.latency.profile import attribute
from attn_export.deploy_tests.latency.roofline import Roofline
from attn_export.deploy_tests.latency.sweeps import Point, of_windows
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.parity.compare import OutputComparison, Parity
from tests.artifacts import onnx as onnx_artifact

HOSTILE = "<script>alert('x')</script> & \"quotes\" | `tick` \x07 ünï"


def node(index: int) -> dict[str, Any]:
    return {
        "name": f"node_{index}",
        "op": "Conv",
        "inputs": [f"t{index - 1}", f"stages.{index}.weight"],
        "outputs": [f"t{index}"],
        "macs": 10**6,
        "flops": 2 * 10**6,
        "bytes": 10**5,
        "module": f"stages.{index}",
        "source": f"/src/net.py:{index + 1}",
        "known": True,
    }


def manifest(nodes: int = 5, name: str = "net") -> dict[str, Any]:
    rows = [node(i) for i in range(nodes)]
    return {
        "schema_version": 3,
        "attn_export": "0.1.0",
        "subject": {"name": name, "weights": "random, seed 0", "fused": True, "seed": 0},
        "command": [name, "--fuse", "-o", "out folder"],
        "opset": 18,
        "artifacts": [onnx_artifact(rule="error <= limit")],
        "stages": [
            {
                "name": "export",
                "nodes": nodes * 2,
                "bytes": 40_000_000,
                "sha256": "ab" * 32,
                "normalized_error": 0.5,
            },
            {"name": "fuse", "nodes": nodes, "bytes": 33_000_000, "sha256": "cd" * 32, "normalized_error": 0.6},
        ],
        "fusion": {
            "sites": [{"name": "stem"}],
            "not_fused": [{"site": "head", "reason": "it does not pay", "remedy": "--cost none"}],
            "certificate": {"worst_error": 1e-15, "error_limit": 1e-12},
        },
        "costs": {
            "case": "b=1",
            "macs": nodes * 10**6,
            "flops": nodes * 2 * 10**6,
            "bytes": nodes * 10**5,
            "nodes": rows,
        },
        "warnings": ["one warning"],
        "environment": environment.describe(),
        "files": {"model.onnx": "ef" * 32},
    }


def report(nodes: int = 5, *, good: bool = True, case: str = "b=1") -> dict[str, Any]:
    output = f"t{nodes - 1}"
    rows = [
        OutputComparison(case, output, 1e-5, 1e-4, 0.4, 120.0, 1e-6),
        OutputComparison("b=2", output, 2e-5, 1e-4, 0.8, 119.0, 1e-6),
    ]
    if not good:
        rows.append(OutputComparison("b=3", output, 1e-3, 1e-4, 40.0, 90.0, 1e-2))
        rows.append(
            OutputComparison(
                "b=4", output, float("inf"), 1e-4, float("inf"), 0.0, float("inf"), failure="2 values are NaN"
            )
        )
    timed = Latency(tuple(10_000_000 + 7919 * i % 3_000_000 for i in range(300)), (10_000_000,) * 300, 1, 0.1)
    weighed = Footprint(0.05, 0.1, 0.02, 170_000_000, 60_000_000, 33_000_000)
    peak = Roofline(8e10, 3e10, 1)
    kernels = [Kernel(f"node_{i}", "Conv", 100.0 + i) for i in range(nodes)] + [
        Kernel("ReorderOutput", "ReorderOutput", 9)
    ]
    contest = summarise([(-0.1 + 0.001 * i, 0.002 * (-1) ** i) for i in range(5)])
    budgets = [hold(parse("p90<=20ms"), timed), hold(parse("p50<=1ms" if not good else "p50<=30ms"), timed)]
    point = Point(1, timed, 10.0).to_dict()
    content = {
        "schema_version": 3,
        "runs": [
            {
                "backend": "onnxruntime",
                "version": "1.2.3",
                "device": "cpu",
                "artifact": "model",
                "environment": environment.describe(),
                "parity": Parity("ONNX Runtime 1.2.3, CPU", 4.0, tuple(rows)).to_dict(),
                "latency": timed.to_dict(),
                "comparison": contest.to_dict("fused", "original"),
                "footprint": weighed.to_dict(),
                "preflight": [{"kind": "load", "found": "load is 3", "remedy": "stop what else runs"}],
                "budgets": [row.to_dict() for row in budgets],
                "mlperf": single_stream(timed.wall).to_dict(),
                "drift": of_windows([10.0, 10.1, 10.0, 10.2], 60).to_dict(),
                "sweeps": {"threads": [point, {**point, "setting": 2, "per_item_ms": 6.0}], "batches": [point]},
                "profile": attribute(kernels, [node(i) for i in range(nodes)], 30, peak).to_dict(),
            },
            {"backend": "tensorrt", "missing": "no GPU here"},
        ],
    }
    plain: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))  # as it is read back: lists, no tuples
    return plain
