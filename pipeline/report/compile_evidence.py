"""What was compiled without a GPU, in a bundle's report: level E1, which product, version and SM, and "not run"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attn_export.deploy_tests.backend import Evidence

KEY = "compiled"


def record(evidence: Evidence) -> dict[str, Any]:
    """Give the evidence as a report keeps it: but for the engine, which is not kept."""
    return {key: value for key, value in evidence.to_dict().items() if not key.startswith("engine_")}


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Say what was built, a line each, in the only words that may be used.

    >>> plan = {"kernels": 7, "fused_attention": 1}
    >>> claim = "builds under TensorRT for RTX 1.7.1 (SM86), not run"
    >>> sentences({"compiled": [{"level": "E1", "claim": claim, "plan": plan}]})
    ['E1: builds under TensorRT for RTX 1.7.1 (SM86), not run; 7 kernels, 1 fused attention']
    """
    return [
        f"{item['level']}: {item['claim']}; {item['plan']['kernels']} kernels,"
        f" {item['plan']['fused_attention']} fused attention"
        for item in report.get(KEY, [])
    ]
