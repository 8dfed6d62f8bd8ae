"""What was compiled for a device that is not here, in a bundle's report: level E1, for which chip, and "not run"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attn_export.deploy_tests.backend import Evidence
from attn_export.deploy_tests.parity.simulated import Simulated

KEY = "compiled"


def record(evidence: Evidence, simulated: Simulated | None = None) -> dict[str, Any]:
    """Give the evidence as a report keeps it: but for the engine, which is not kept."""
    kept = {key: value for key, value in evidence.to_dict().items() if not key.startswith("engine_")}
    return kept if simulated is None else {**kept, "simulated": simulated.to_dict()}


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Say what was built, a line each, in the only words that may be used.

    >>> plan = {"kernels": 7, "fused_attention": 1}
    >>> claim = "builds under TensorRT for RTX 1.7.1 (SM86), not run"
    >>> sentences({"compiled": [{"level": "E1", "claim": claim, "plan": plan}]})
    ['E1: builds under TensorRT for RTX 1.7.1 (SM86), not run; 7 kernels, 1 fused attention']
    >>> placement = {"cpu": [{"op": "Mean", "node": "m"}]}
    >>> sentences({"compiled": [{"level": "E1", "claim": "builds for X, not run", "placement": placement}]})
    ["E1: builds for X, not run; on the CPU: Mean 'm'"]
    """
    return [
        line
        for item in report.get(KEY, [])
        for line in filter(None, (f"{item['level']}: {item['claim']}{_made(item)}", _simulated(item)))
    ]


def _made(item: Mapping[str, Any]) -> str:
    if plan := item.get("plan"):
        return f"; {plan['kernels']} kernels, {plan['fused_attention']} fused attention"
    cpu = (item.get("placement") or {}).get("cpu", [])
    named = ", ".join(f"{node['op']} {node['node']!r}" if node["node"] else node["op"] for node in cpu)
    return f"; on the CPU: {named}" if named else ""


def _simulated(item: Mapping[str, Any]) -> str:
    if not (raw := item.get("simulated")):
        return ""
    return Simulated(
        raw["cases"], raw["snr_db"], raw["case"], raw["output"], raw["failure"], raw.get("centred", False)
    ).summary()
